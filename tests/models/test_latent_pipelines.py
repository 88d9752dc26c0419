"""Models that work on latents, read from folders and used by the tasks, agree with diffusers' pipelines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from autoencoders import TINY
from latent_models import UNET, VQ, write_config, write_model, write_part
from PIL import Image
from safetensors.torch import load_file, save_file
from stubs import Smooth
from torch import Tensor

from restorer import upscale
from restorer.errors import DeviceError, ModelError, UsageError
from restorer.models.checkpoints import load_model, load_unet
from restorer.models.hub.download import sha256_of
from restorer.models.latent_pipelines import is_latent, load_latent
from restorer.models.load import load_prior, model_sha256, precision_name, weights_sha256
from restorer.priors.latent import LatentPrior
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import UNetResources
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.generate import generate, prepare_generate
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.upscale import LATENT_TILE, prepare_upscale

INDEX, CONFIG, WEIGHTS, PICKLED = (
    "model_index.json",
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)
NOTE = "shrinking the result does not give the input back with this model"
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("super"), super_resolution=True)


@pytest.fixture(scope="module")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("celeba"), super_resolution=False)


def load(folder: Path, precision: str = "fp32") -> LatentPrior:
    """Return a separate prior, which a test may change."""
    prior = load_prior(folder, "cpu", precision)
    assert isinstance(prior, LatentPrior)
    return LatentPrior(prior.network, prior.spec, prior.autoencoder, dtype=prior.dtype)


def picture(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def record_latents(prior: Any, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list that collects the latents which our prior or diffusers' autoencoder decodes."""
    seen: list[Tensor] = []
    decode = prior.decode

    def decode_and_record(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(latents.clone())
        return decode(latents, *args, **kwargs)

    monkeypatch.setattr(prior, "decode", decode_and_record)
    return seen


def diffusers_parts(diffusers: ModuleType, folder: Path) -> tuple[Any, Any, Any]:
    """Return the autoencoder, network and sampler that diffusers reads from a folder."""
    vqvae, report = diffusers.VQModel.from_pretrained(folder / "vqvae", output_loading_info=True)
    assert not any(report.values()), report
    unet, report = diffusers.UNet2DModel.from_pretrained(folder / "unet", output_loading_info=True)
    assert not any(report.values()), report
    return vqvae, unet, diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")


def diffusers_upscaler(diffusers: ModuleType, folder: Path) -> Any:
    # The pipeline is imported from its module: diffusers exports its name only if transformers is installed, although
    # the pipeline does not use it.
    module = import_module("diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution")
    return module.LDMSuperResolutionPipeline(*diffusers_parts(diffusers, folder))


# -- against diffusers -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_super_resolution(diffusers: ModuleType, upscaler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 4 steps the latents before the codebook agree to 1e-4, and the same latents decode equally to 1e-5."""
    prior, pipeline = load(upscaler), diffusers_upscaler(diffusers, upscaler)
    pipeline.set_progress_bar_config(disable=True)
    mine, reference = record_latents(prior, monkeypatch), record_latents(pipeline.vqvae, monkeypatch)
    small = picture(3, 8, 12)
    generator = torch.Generator().manual_seed(11)
    expected = pipeline(2 * small[None] - 1, num_inference_steps=4, generator=generator, output_type="pt").images[0]

    job = prepare_upscale(small, 4, steps=4, seed=11, prior=prior)
    result = job.run().image
    assert job.plan is not None and job.plan.evaluations == 4 and job.notes == (NOTE,)
    assert float((mine[0] - reference[0]).abs().max()) <= 1e-4 and float(mine[0].std()) > 0.1
    decoded = prior.decode(reference[0])[0]
    assert float(((decoded.clamp(-1, 1) + 1) / 2 - expected).abs().max()) <= 1e-5
    assert result.shape == expected.shape == (3, 32, 48)
    assert float(result.std()) > 0.01


@torch.no_grad()
def test_generation(diffusers: ModuleType, celeba: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = load(celeba)
    pipeline = diffusers.LDMPipeline(*diffusers_parts(diffusers, celeba))
    pipeline.set_progress_bar_config(disable=True)
    mine, reference = record_latents(prior, monkeypatch), record_latents(pipeline.vqvae, monkeypatch)
    generator = torch.Generator().manual_seed(5)
    expected = pipeline(1, num_inference_steps=4, generator=generator, output_type="np").images

    (job,) = prepare_generate([5], method="ddim", steps=4, prior=prior)
    result = job.run().image
    assert float((mine[0] - reference[0]).abs().max()) <= 1e-4 and float(mine[0].std()) > 0.1
    decoded = ((prior.decode(reference[0]) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
    assert float((decoded - torch.from_numpy(expected)).abs().max()) <= 1e-5
    assert result.shape == (1, 3, 64, 64)  # sample_size 16, times 4


@torch.no_grad()
def test_a_pipeline_that_diffusers_writes(diffusers: ModuleType, celeba: Path, tmp_path: Path) -> None:
    """A folder with every field that diffusers writes gives the same model."""
    diffusers.LDMPipeline(*diffusers_parts(diffusers, celeba)).save_pretrained(tmp_path)
    latents = torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    written, expected = load(tmp_path), load(celeba)
    assert written.spec == expected.spec
    assert torch.equal(written.decode(latents), expected.decode(latents))
    assert torch.equal(written.predict(latents, 1.0).x0, expected.predict(latents, 1.0).x0)


@pytest.mark.parametrize("kind", ["VQModel", "AutoencoderKL"])
def test_either_autoencoder(celeba: Path, tmp_path: Path, kind: str) -> None:
    """The folder `vae` may take the place of `vqvae` with either class of autoencoder."""
    shutil.copytree(celeba, tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "vqvae")
    write_config(tmp_path / "m" / INDEX, {"_class_name": "MyPipeline", "vae": ["diffusers", kind]})
    shape = {k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items()}
    write_part(tmp_path / "m" / "vae", {"_class_name": kind, **shape, "latent_channels": 3})
    assert type(load(tmp_path / "m").autoencoder).__name__ == kind


# -- reading -----------------------------------------------------------------------------------------------------------


def test_what_is_read(upscaler: Path, celeba: Path) -> None:
    prior = load(upscaler)
    assert (prior.channels, prior.condition_channels, prior.factor, prior.native_size) == (3, 3, 4, 16)
    assert prior.network.config.in_channels == 6 and prior.spec.network.in_channels == 3 and not prior.clip
    assert (prior.serves, load(celeba).serves) == ("upscale", "generate")
    assert load_prior(upscaler, "cpu", "bf16").dtype == torch.bfloat16
    assert weights_sha256(upscaler) == sha256_of(upscaler / "unet" / WEIGHTS)


def test_whatever_a_result_depends_on_changes_what_a_model_is(upscaler: Path, tmp_path: Path) -> None:
    """The hash covers every file of both networks and of the scheduler, and no other file of the folder."""
    seen = {model_sha256(upscaler)}
    for i, name in enumerate(path.relative_to(upscaler) for path in sorted(upscaler.rglob("*")) if path.is_file()):
        shutil.copytree(upscaler, changed := tmp_path / str(i))
        assert model_sha256(changed) in seen, name
        model_sha256.cache_clear()
        with (changed / name).open("ab") as file:
            file.write(b" ")
        seen.add(model_sha256(changed))
        assert len(seen) == i + 2, name
    # A path to a part of a model stands for the whole model, because the files beside that part are read as well.
    forms = ("unet", f"unet/{WEIGHTS}", "unet/config.json")
    for place in ("scheduler/scheduler_config.json", "scheduler_config.json", f"unet/{WEIGHTS}"):
        for i, form in enumerate(forms):
            shutil.copytree(upscaler, changed := tmp_path / f"{place.replace('/', '-')}{i}")
            before = model_sha256(changed / form)
            model_sha256.cache_clear()
            with (changed / place).open("ab") as file:
                file.write(b" ")
            assert model_sha256(changed / form) != before, (form, place)
    assert weights_sha256(upscaler / "unet" / "config.json") == weights_sha256(upscaler)
    shutil.copytree(upscaler, beside := tmp_path / "beside")
    (beside / "README.md").write_text("a model")
    assert model_sha256(beside) == model_sha256(upscaler)
    assert {model_sha256(upscaler / form) for form in forms} == {model_sha256(upscaler)}


@pytest.mark.parametrize("beside", ["adm.pt.json", "adm.json"])
def test_what_a_raw_file_cannot_tell_is_part_of_what_it_is(tmp_path: Path, beside: str) -> None:
    (tmp_path / "adm.pt").write_bytes(b"weights")
    alone = model_sha256(tmp_path / "adm.pt")
    (tmp_path / beside).write_text("{}")
    model_sha256.cache_clear()
    assert model_sha256(tmp_path / "adm.pt") != alone


def test_files_of_2022(upscaler: Path, tmp_path: Path) -> None:
    """Pickled weights with the old names of the attention are read in both networks."""
    shutil.copytree(upscaler, tmp_path / "old")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part in ("unet", "vqvae"):
        state = load_file(tmp_path / "old" / part / WEIGHTS)
        named = {}
        for name, value in state.items():
            for new, before in old.items():
                name = name.replace(f".{new}.", f".{before}.")
            named[name] = value
        assert named.keys() != state.keys()
        torch.save(named, tmp_path / "old" / part / PICKLED)
        (tmp_path / "old" / part / WEIGHTS).unlink()
    found, expected = load(tmp_path / "old"), load(upscaler)
    for mine, reference in ((found.network, expected.network), (found.autoencoder, expected.autoencoder)):
        state = reference.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in mine.state_dict().items())


@pytest.mark.parametrize("path", ["", "unet", f"unet/{WEIGHTS}", f"unet/{CONFIG}"])
def test_paths_that_mean_the_pipeline(upscaler: Path, path: str) -> None:
    assert is_latent(upscaler / path)
    assert load_prior(upscaler / path, "cpu", "fp32").channels == 3


@pytest.mark.parametrize("index", [None, {"_class_name": "LDMPipeline"}, {"_class_name": "X", "vqvae": []}], ids=str)
def test_an_autoencoder_is_never_passed_over(celeba: Path, tmp_path: Path, index: dict[str, Any] | None) -> None:
    """The network has three channels in and out, so it would load as a model of images and give garbage."""
    shutil.copytree(celeba, tmp_path / "m")
    (tmp_path / "m" / INDEX).unlink()
    if index is not None:
        write_config(tmp_path / "m" / INDEX, index)
    assert isinstance(load_prior(tmp_path / "m", "cpu", "fp32"), LatentPrior)
    for path in (tmp_path / "m", tmp_path / "m" / "unet"):
        with pytest.raises(ModelError, match="latents"):
            load_model(path)
    load_unet(tmp_path / "m")  # the network can still be read by itself


def test_a_model_of_pictures_is_none_of_latents(celeba: Path, tmp_path: Path) -> None:
    shutil.copytree(celeba / "unet", tmp_path / "unet")
    shutil.copy(celeba / "scheduler" / "scheduler_config.json", tmp_path / "unet")
    assert not is_latent(tmp_path) and not isinstance(load_prior(tmp_path, "cpu", "fp32"), LatentPrior)
    with pytest.raises(ModelError, match="no autoencoder"):
        load_latent(tmp_path)
    shutil.copy(celeba / INDEX, tmp_path)
    (tmp_path / "raw.pt").write_bytes(b"")
    assert not is_latent(tmp_path / "raw.pt")


Damage = Callable[[Path], None]


def edit(part: str, name: str = CONFIG, **fields: Any) -> Damage:
    """Return a function that changes fields of a configuration."""

    def damage(folder: Path) -> None:
        path = folder / part / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return damage


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def weights(part: str, change: Callable[[dict[str, Tensor]], None]) -> Damage:
    """Return a function that changes weights."""

    def damage(folder: Path) -> None:
        state = load_file(folder / part / WEIGHTS)
        change(state)
        save_file(state, folder / part / WEIGHTS)

    return damage


def replace(part: str, config: dict[str, Any]) -> Damage:
    """Return a function that replaces a network."""
    return lambda folder: write_part(folder / part, config)


def _nan(state: dict[str, Tensor]) -> None:
    state["decoder.conv_out.bias"][0] = torch.nan


def _transposed(state: dict[str, Tensor]) -> None:
    state["quantize.embedding.weight"] = state["quantize.embedding.weight"].T.contiguous()


def _incomplete(state: dict[str, Tensor]) -> None:
    del state["quant_conv.bias"]


WIDE = {"block_out_channels": [2048] * 3, "norm_num_groups": 32, "layers_per_block": 6}
DEEP = {
    "block_out_channels": [2048] * 8,
    "norm_num_groups": 32,
    "layers_per_block": 6,
    "down_block_types": ["AttnDownEncoderBlock2D"] * 8,
    "up_block_types": ["AttnUpDecoderBlock2D"] * 8,
}
BROKEN: dict[str, tuple[Damage, str]] = {
    "no configuration": (remove(f"vqvae/{CONFIG}"), f"vqvae/{CONFIG} is missing"),
    "no weights": (remove(f"vqvae/{WEIGHTS}"), "vqvae/.* is missing"),
    "no network": (remove(f"unet/{WEIGHTS}"), "unet/.* is missing"),
    "no scheduler": (remove("scheduler/scheduler_config.json"), "scheduler_config.json is missing"),
    "another class": (edit("vqvae", _class_name="MoVQ"), "'MoVQ' is not one of VQModel, AutoencoderKL"),
    "no class": (edit("vqvae", _class_name=None), "is not one of VQModel"),
    "escapes": (edit("vqvae", _class_name="\x1b[2J"), r"_class_name '.*x1b\[2J' is not one of"),
    "wide": (edit("vqvae", **WIDE), "more than 1,500,000,000 parameters|does not fit"),
    "deep": (edit("vqvae", **DEEP), "more than 1,500,000,000 parameters"),
    "wider": (edit("vqvae", block_out_channels=[8, 16, 2**14]), "whole numbers from 1 to 2048"),
    "endless": (edit("vqvae", block_out_channels=[8] * 10_000), "1 to 8 whole numbers"),
    "many codes": (edit("vqvae", num_vq_embeddings=2**30), "num_vq_embeddings must lie between"),
    "other codes": (edit("vqvae", num_vq_embeddings=65), "does not fit its config.json: quantize.embedding.weight"),
    "no number": (edit("vqvae", latent_channels="3"), "latent_channels must lie between"),
    "infinite factor": (edit("vqvae", scaling_factor=float("inf")), "scaling_factor must be a number"),
    "nan factor": (edit("vqvae", scaling_factor=float("nan")), "scaling_factor must be a number"),
    "no list": (edit("vqvae", block_out_channels=8), "block_out_channels must be a list"),
    "spatial norm": (edit("vqvae", norm_type="spatial"), "norm_type spatial is not supported"),
    "gray": (edit("vqvae", out_channels=1), "must decode to 3 channels, not to 1"),
    "wider latents": (replace("vqvae", {**VQ, "vq_embed_dim": 4}), "3 channels in and 3 out, .* autoencoder have 4"),
    "fewer latents": (replace("vqvae", {**VQ, "vq_embed_dim": 2}), "3 channels in and 3 out, .* autoencoder have 2"),
    "nan": (weights("vqvae", _nan), "vqvae/.* not finite, in decoder.conv_out.bias"),
    "shape": (weights("vqvae", _transposed), "vqvae/.* does not fit its config.json: quantize.embedding.weight"),
    "name": (weights("vqvae", _incomplete), "vqvae/.* does not fit its config.json: quant_conv.bias"),
    "clipped": (edit("scheduler", "scheduler_config.json", clip_sample=True), "its scheduler clips"),
    "VE": (edit("scheduler", "scheduler_config.json", _class_name="ScoreSdeVeScheduler"), "VE"),
    "text": (edit("", INDEX, text_encoder=["transformers", "CLIPTextModel"]), "text-conditional"),
    "text by name": (edit("", INDEX, _class_name="LDMTextToImagePipeline"), "text-conditional"),
    "conditional network": (edit("unet", num_class_embeds=10), "class-conditional"),
    "index": (lambda folder: _write(folder / INDEX, "[1"), f"{INDEX} cannot be read"),
}


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize(("damage", "word"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_refused(celeba: Path, tmp_path: Path, damage: Damage, word: str) -> None:
    shutil.copytree(celeba, tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(ModelError, match=word) as caught:
        load_prior(tmp_path / "m", "cpu", "fp32")
    text = str(caught.value)
    assert text.isprintable() and len(text) < 600


# -- upscaling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 5, 7), (1, 8, 8), (3, 1, 1), (1, 3, 2)])
def test_any_size_is_enlarged_by_exactly_four(upscaler: Path, channels: int, height: int, width: int) -> None:
    done = prepare_upscale(picture(channels, height, width), steps=1, prior=load(upscaler)).run()
    assert done.image.shape == (channels, 4 * height, 4 * width) and done.notes == ()
    assert 0 <= float(done.image.min()) and float(done.image.max()) <= 1


def test_python_takes_it(upscaler: Path) -> None:
    prior, image = load_prior(upscaler, "cpu", "fp32"), Image.new("RGB", (9, 6), (40, 90, 140))
    steps: list[int] = []
    large = upscale(image, prior=prior, steps=2, seed=3, on_step=lambda step: steps.append(step.index))
    assert large.size == (36, 24) and large.mode == "RGB" and steps == [1, 2]
    assert upscale(image, prior=prior, steps=2, seed=3).tobytes() == large.tobytes()
    assert upscale(image, prior=prior, steps=2, seed=4).tobytes() != large.tobytes()


def test_the_custom_is_a_hundred_steps(upscaler: Path) -> None:
    job = prepare_upscale(picture(3, 8, 8), prior=load(upscaler))
    assert job.plan is not None and job.plan.evaluations == 100 and not any(job.plan.zeta)
    ancestral = prepare_upscale(picture(3, 8, 8), method="ddpm", prior=load(upscaler)).plan
    assert ancestral is not None and ancestral.sigmas == job.plan.sigmas and all(ancestral.zeta)


def test_large_pictures_are_tiled(upscaler: Path) -> None:
    prior = load(upscaler)
    assert prepare_upscale(picture(3, LATENT_TILE, LATENT_TILE), prior=prior).tiles == 1
    assert prepare_upscale(picture(3, LATENT_TILE + 1, LATENT_TILE), prior=prior).tiles == 2
    seen: list[tuple[int, int]] = []
    job = prepare_upscale(picture(3, 16, 24), steps=2, prior=Tiled(prior, 12, overlap=4))
    done = job.run(on_tile=lambda tile, tiles: seen.append((tile, tiles)))
    assert done.image.shape == (3, 64, 96) and seen == [(k, 6) for k in range(1, 7)] * 2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scale": 2}, "enlarges by 4, not by 2"),
        ({"sigma": 5.0}, "--sigma"),
        ({"detail": 0.5}, "--detail"),
        ({"detail": 0.0}, "--detail"),
        ({"method": "repaint"}, "but not repaint"),
        ({"steps": 501}, "between 1 and 500"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(upscaler: Path, options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        prepare_upscale(picture(3, 8, 8), prior=load(upscaler), **options)


def limit_memory(prior: LatentPrior, name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make a method run out of memory above a size, and return a list that collects the requested sizes."""
    inner, sizes = getattr(prior, name), list[int]()

    def call(x: Tensor, *arguments: Any) -> Any:
        sizes.append(max(x.shape[-2:]))
        if sizes[-1] > limit:
            raise OUT_OF_MEMORY
        return inner(x, *arguments)

    monkeypatch.setattr(prior, name, call)
    return sizes


def test_out_of_memory_while_sampling(upscaler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = load(upscaler)
    limit_memory(prior, "predict", 30, monkeypatch)
    done = prepare_upscale(picture(3, 48, 40), steps=1, prior=prior).run()
    assert done.image.shape == (3, 192, 160) and done.prior.tile == 24
    assert done.notes == ("out of memory: repeated with 96-pixel tiles",)
    limit_memory(prior, "predict", 10, monkeypatch)  # the low-precision prior is another object, without this limit
    done = prepare_upscale(picture(3, 48, 40), steps=1, prior=prior).run()
    assert done.notes[-1] == "out of memory: repeated in bf16" and precision_name(done.prior) == "bf16"
    monkeypatch.setattr(UNetResources, "low_precision", lambda self: None)
    with pytest.raises(DeviceError, match="even with 96-pixel tiles"):
        prepare_upscale(picture(3, 48, 40), steps=1, prior=prior).run()


def test_out_of_memory_while_decoding(upscaler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the decoding is repeated, not the sampling."""
    prior = load(upscaler)
    sampled = limit_memory(prior, "predict", 1000, monkeypatch)
    decoded = limit_memory(prior, "_decode", 30, monkeypatch)
    done = prepare_upscale(picture(3, 48, 40), steps=3, prior=prior).run()
    assert sampled == [48] * 3 and decoded[0] == 48 and set(decoded[1:]) == {24}
    assert done.notes == ("out of memory: decoded with 96-pixel tiles",) and done.image.shape == (3, 192, 160)


def test_low_precision_that_fails(upscaler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = load(upscaler, "bf16")
    monkeypatch.setattr(prior, "_evaluate", lambda x, sigma, condition: torch.full_like(x, torch.nan))
    done = prepare_upscale(picture(3, 8, 8), steps=1, prior=prior).run()
    assert done.notes == ("low precision gave values that are not finite: repeated in fp32",)
    assert bool(done.image.isfinite().all()) and precision_name(done.prior) == "fp32"


def test_an_autoencoder_that_fails(upscaler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = load(upscaler)
    monkeypatch.setattr(prior, "_decode", lambda z: torch.full((1, 3, 32, 32), torch.nan))
    with pytest.raises(ModelError, match="not finite"):
        prepare_upscale(picture(3, 8, 8), steps=1, prior=prior).run()


@pytest.mark.gpu
def test_on_a_gpu(upscaler: Path) -> None:
    """The latents agree with those of the CPU; a latent between two codes may fall either way."""
    there, here = load_prior(upscaler, "cuda", "fp32"), load(upscaler)
    x, small = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    found = there.predict(x.cuda(), 2.0, small.cuda()).x0.cpu()
    torch.testing.assert_close(found, here.predict(x, 2.0, small).x0, rtol=1e-3, atol=1e-3)
    done = prepare_upscale(picture(3, 16, 24), steps=2, prior=Tiled(there, 12, overlap=4)).run()
    assert done.image.shape == (3, 64, 96) and done.image.device.type == "cpu" and done.notes == ()


# -- from noise --------------------------------------------------------------------------------------------------------


def test_generated_pictures_have_the_size_asked_for(celeba: Path) -> None:
    prior = load(celeba)
    for size, shape in ((None, (64, 64)), ((30, 17), (17, 30)), ((4, 4), (4, 4)), ((1, 1), (1, 1))):
        (job,) = prepare_generate([0], size, steps=1, prior=prior)
        assert job.run().image.shape == (1, 3, *shape)
    assert job.start.shape == (1, 3, 1, 1)


def test_a_picture_depends_on_its_seed_alone(celeba: Path) -> None:
    prior = load(celeba)
    several = generate(3, 32, steps=2, seed=7, prior=prior)
    alone = generate(1, 32, steps=2, seed=9, prior=prior)
    torch.testing.assert_close(several[2:], alone, rtol=0, atol=2e-2)  # a latent between two codes may fall either way
    assert float((several[1] - several[2]).abs().mean()) > 1e-3


@pytest.mark.parametrize("method", ["ddpm", "ddim", "langevin"])
def test_every_sampler_takes_it(celeba: Path, method: str) -> None:
    assert bool(generate(1, 16, method=method, steps=3, prior=load(celeba)).isfinite().all())
    if method == "ddim":
        with pytest.raises(UsageError, match="between 1 and 500"):
            generate(1, 16, method=method, steps=501, prior=load(celeba))


# -- refusals ----------------------------------------------------------------------------------------------------------


def run_task(task: str, prior: Any) -> Job | list[Job]:
    image = picture(3, 8, 8)
    match task:
        case "denoise":
            return prepare_denoise(image, 20.0, prior=prior)
        case "inpaint":
            return prepare_inpaint(image, image[0] > 0.5, prior=prior)
        case "upscale":
            return prepare_upscale(image, prior=prior)
        case _:
            return prepare_generate([0], prior=prior)


@pytest.mark.parametrize("tiles", [False, True])
def test_tasks_that_cannot_use_latents(upscaler: Path, celeba: Path, tiles: bool) -> None:
    cases = [(task, celeba) for task in ("denoise", "inpaint", "upscale")]
    cases += [(task, upscaler) for task in ("denoise", "inpaint", "generate")]
    for task, folder in cases:
        prior = Tiled(load(folder), 8, overlap=2) if tiles else load(folder)
        word = "none from noise alone" if task == "generate" else "works on latents"
        with pytest.raises(ModelError, match=f"{word}.*: {task} cannot use it") as caught:
            run_task(task, prior)
        assert caught.value.hint == f"use it with restore {'generate' if folder == celeba else 'upscale'}"
    assert prepare_upscale(picture(3, 8, 8), 2, prior=Smooth()).latent is None


def test_a_condition_that_is_no_picture(upscaler: Path, tmp_path: Path) -> None:
    shutil.copytree(upscaler, tmp_path / "m")
    write_part(tmp_path / "m" / "unet", {**UNET, "in_channels": 7})
    with pytest.raises(ModelError, match="condition of 4 channels"):
        prepare_upscale(picture(3, 8, 8), prior=load(tmp_path / "m"))
