"""The trainer: its crops, its targets, and tiny runs that end in a model folder."""

from __future__ import annotations

import io
import math
import tarfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from restorer.diffusion.schedule import Schedule
from restorer.networks.unet import UNet, UNetConfig
from restorer.priors.checkpoints import load_model
from restorer.priors.unet_prior import ModelSpec, UNetPrior, v_target
from restorer.training import Recipe, _ahead, _draw_t, _learning_rate, crops, read_pictures, read_recipe, train

SPEC = ModelSpec(
    UNetConfig(
        in_channels=12,
        out_channels=12,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    ),
    Schedule("squaredcos_cap_v2"),
    "v_prediction",
    patch_size=2,
)
RECIPE = Recipe(steps=3, batch=2, crop=16, warmup=2, learning_rate=2e-3)


def coordinates(height: int, width: int) -> np.ndarray:
    """A picture whose every pixel says where it is: (row, column, 77)."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, np.full_like(rows, 77)], axis=-1)


def encoded(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A .tar of two pictures, in a folder as shards have it, beside an entry that is no file."""
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("pictures")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for k, size in enumerate(((40, 24), (18, 50))):
            content = encoded(coordinates(*size) * (k + 1))
            entry = tarfile.TarInfo(f"pictures/{k}.png")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([value.flatten() for value in load_model(folder)[0].state_dict().values()])


# -- targets -----------------------------------------------------------------------------------------------------------


def test_picture_and_noise_come_back_from_v() -> None:
    """Salimans & Ho 2022, appendix D: x_0 = sqrt(abar) x_t - sqrt(1-abar) v, eps = sqrt(1-abar) x_t + sqrt(abar) v."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, 4, 4, generator=generator, dtype=torch.float64)
    a = torch.tensor([1e-4, 0.1, 0.5, 0.9, 0.9999], dtype=torch.float64).view(-1, 1, 1, 1)
    x_t, v = a.sqrt() * x0 + (1 - a).sqrt() * eps, v_target(x0, eps, a)
    torch.testing.assert_close(a.sqrt() * x_t - (1 - a).sqrt() * v, x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((1 - a).sqrt() * x_t + a.sqrt() * v, eps, rtol=1e-12, atol=1e-12)


def test_timesteps_are_drawn_more_often_below() -> None:
    recipe = replace(RECIPE, low_t=600, low_share=0.7)
    t = _draw_t(40_000, recipe, 999, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float64 and float(t.min()) >= 0 and float(t.max()) <= 999
    counts = torch.histc(t.float(), 10, 0, 1000) / len(t)
    expected = [0.7 / 6] * 6 + [0.3 / 3.99] * 3 + [0.3 * 99 / 399]
    assert counts.tolist() == pytest.approx(expected, abs=0.006)  # four standard errors
    assert float(_draw_t(1000, recipe, 99, torch.Generator().manual_seed(0)).max()) <= 99


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    recipe = replace(RECIPE, steps=1000, warmup=10, learning_rate=1.0)
    rates = [_learning_rate(step, recipe) for step in (0, 4, 9, 250, 500, 750, 1000)]
    cosine = [0.5 * (1 + math.cos(math.pi * s / 1000)) for s in (0, 4, 9, 250, 500, 750, 1000)]
    assert rates == pytest.approx([0.1 * cosine[0], 0.5 * cosine[1], *cosine[2:]])
    assert rates[-1] == pytest.approx(0) and rates[4] == pytest.approx(0.5)


# -- data --------------------------------------------------------------------------------------------------------------


def test_pictures_are_read_from_shards_and_folders(tmp_path: Path, shard: Path) -> None:
    inner = tmp_path / "folder" / "deeper"
    inner.mkdir(parents=True)
    (inner / "a.PNG").write_bytes(encoded(coordinates(20, 17)))
    Image.fromarray(coordinates(16, 16)).save(inner / "b.jpeg")
    Image.fromarray(np.full((9, 8), 50, np.uint8)).save(inner / "c.png")  # gray becomes three channels
    (inner / "notes.txt").write_text("no picture")
    pictures = read_pictures([shard, tmp_path / "folder"])
    assert [p.shape for p in pictures] == [(40, 24, 3), (18, 50, 3), (20, 17, 3), (16, 16, 3), (9, 8, 3)]
    assert all(p.dtype == np.uint8 for p in pictures)
    np.testing.assert_array_equal(pictures[0], coordinates(40, 24))
    np.testing.assert_array_equal(pictures[1], coordinates(18, 50) * 2)
    np.testing.assert_array_equal(pictures[4], np.full((9, 8, 3), 50))


def test_crops_are_windows_turned_and_mirrored() -> None:
    """Every crop is a window of one picture in one of eight positions, all eight appear, and both pictures do."""
    recipe = replace(RECIPE, batch=64, downscale=0.0, gray=0.0)
    pictures = [coordinates(40, 24), coordinates(30, 50), coordinates(10, 100)]  # the last is too low to be cropped
    batch = next(crops(pictures, recipe, seed=3))
    assert batch.shape == (64, 16, 16, 3) and batch.dtype == np.uint8
    positions, beyond = set(), 0
    for crop in batch.astype(int):
        window = np.mgrid[:16, :16].transpose(1, 2, 0) + crop[..., :2].min((0, 1))
        turns = [(k, flip) for k in range(4) for flip in (False, True)]
        turned = {(k, flip): np.rot90(window, k)[:, ::-1] if flip else np.rot90(window, k) for k, flip in turns}
        matches = [name for name, array in turned.items() if np.array_equal(array, crop[..., :2])]
        assert len(matches) == 1
        positions.add(matches[0])
        beyond += crop[..., 1].max() >= 24
    assert len(positions) == 8 and 0 < beyond < 64


def test_crops_depend_on_the_seed_alone() -> None:
    pictures = [coordinates(40, 24), coordinates(30, 50)]
    first, again, other = (np.stack(list(islice(crops(pictures, RECIPE, seed), 5))) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_crops_are_shrunk_and_lose_their_colour_when_asked() -> None:
    pictures = [coordinates(40, 40)]
    gray = next(crops(pictures, replace(RECIPE, batch=16, gray=1.0, downscale=0.0), seed=0))
    assert (gray == gray[..., :1]).all() and gray.std() > 0
    small = next(crops(pictures, replace(RECIPE, batch=16, gray=0.0, downscale=1.0), seed=0)).astype(int)
    spans = [np.ptp(crop[..., k]) for crop in small for k in (0, 1)]
    assert max(spans) > 22 and max(spans) <= 32  # shrunk from windows of up to 32 pixels


def test_batches_are_tensors_on_minus_one_to_one() -> None:
    source = [np.full((2, 4, 4, 3), value, np.uint8) for value in (0, 255, 51)]
    source[2][0, 1, 2] = (10, 20, 30)
    batches = list(islice(_ahead(iter(source)), 3))
    assert [b.shape for b in batches] == [(2, 3, 4, 4)] * 3 and batches[0].dtype == torch.float32
    assert bool((batches[0] == -1).all()) and bool((batches[1] == 1).all())
    assert batches[2][0, :, 1, 2].tolist() == pytest.approx([v / 127.5 - 1 for v in (10, 20, 30)])


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_model_folder(tmp_path: Path, shard: Path) -> None:
    train(SPEC, RECIPE, [shard], tmp_path / "out")
    network, spec = load_model(tmp_path / "out")
    assert spec == SPEC
    x = torch.zeros(1, 3, 11, 7)
    assert UNetPrior(network, spec).predict(x, 0.5).x0.shape == x.shape
    torch.manual_seed(RECIPE.seed)
    start = torch.cat([value.flatten() for value in UNet(SPEC.network).state_dict().values()])
    assert 1e-4 < float((weights(tmp_path / "out") - start).abs().max()) < 0.1


def test_a_run_depends_on_its_seed(tmp_path: Path, shard: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(SPEC, replace(RECIPE, seed=seed), [shard], tmp_path / name)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    train(SPEC, replace(RECIPE, steps=2), [shard], out)
    first = torch.load(out / "checkpoint.pt", weights_only=True)
    assert first["step"] == 2 and "resumed" not in capsys.readouterr().out
    before = weights(out)
    train(SPEC, replace(RECIPE, steps=5), [shard], out)
    printed = capsys.readouterr().out
    assert "resumed at step 2" in printed and "step 5/5" in printed
    second = torch.load(out / "checkpoint.pt", weights_only=True)
    assert second["step"] == 5 and not torch.equal(weights(out), before)
    # Adam has counted every step, before and after the pause.
    assert {float(state["step"]) for state in second["optimizer"]["state"].values()} == {5.0}
    # Nothing is left to do: the folder stays as it is.
    train(SPEC, replace(RECIPE, steps=5), [shard], out)
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 5


def test_the_folder_holds_the_average(tmp_path: Path, shard: Path) -> None:
    train(SPEC, RECIPE, [shard], tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    found = load_model(tmp_path)[0].state_dict()
    for key, value in state["average"].items():
        assert torch.equal(found[key], value.half())
    assert any(not torch.equal(state["network"][key], value) for key, value in state["average"].items())


class Knowing(nn.Module):
    """In the network's place, where all pictures are of one flat colour: `share` times the right answer."""

    colour, kind, share = 200 / 127.5 - 1, "v_prediction", 1.0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(self.share))

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha_bar = (1 / (1 + SPEC.schedule.sigma_at(t) ** 2)).view(-1, 1, 1, 1)
        eps = (x_t - alpha_bar.sqrt() * self.colour) / (1 - alpha_bar).sqrt()
        v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * self.colour
        return self.weight * {"v_prediction": v, "epsilon": eps}[self.kind].float()


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A folder with one picture of one flat colour."""
    (tmp_path / "flat").mkdir()
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(tmp_path / "flat" / "a.png")
    return tmp_path / "flat"


@pytest.mark.parametrize("answer", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_the_loss_is_zero_for_the_right_answer_alone(
    tmp_path: Path,
    flat: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    answer: str,
) -> None:
    monkeypatch.setattr(UNetConfig, "build", lambda config: Knowing())
    monkeypatch.setattr(Knowing, "kind", answer)
    recipe = replace(RECIPE, steps=4, batch=32, learning_rate=1e-9)
    train(replace(SPEC, prediction_type=kind), recipe, [flat], tmp_path / "out")
    losses = [float(entry.split(":")[1]) for entry in capsys.readouterr().out.split("loss by t/100")[1].split()]
    assert len(losses) > 5
    if answer == kind:
        assert max(losses) <= 1e-4
    else:
        assert max(losses) > 0.5


def test_steps_go_downhill(tmp_path: Path, flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From no answer at all a few steps of Adam, each about the learning rate, lead towards the right one."""
    monkeypatch.setattr(UNetConfig, "build", lambda config: Knowing())
    monkeypatch.setattr(Knowing, "share", 0.0)
    recipe = replace(RECIPE, steps=4, batch=32, learning_rate=0.1, warmup=1, ema=0.5)
    train(SPEC, recipe, [flat], tmp_path / "out")
    state = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    rates = [_learning_rate(step, recipe) for step in range(4)]
    assert float(state["network"]["weight"]) == pytest.approx(sum(rates), rel=0.1)
    # The average: decay min(ema, (1 + n) / (10 + n)) after step n.
    weight = average = 0.0
    for n, rate in enumerate(rates, 1):
        weight += rate
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weight
    assert float(state["average"]["weight"]) == pytest.approx(average, rel=0.1)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, shard: Path) -> None:
    with pytest.raises(SystemExit, match="not finite at step 3"):
        train(SPEC, replace(RECIPE, learning_rate=1e30, warmup=1), [shard], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
        [network]
        in_channels = 12
        out_channels = 12
        block_out_channels = [8, 16]
        down_block_types = ["DownBlock2D", "DownBlock2D"]
        up_block_types = ["UpBlock2D", "UpBlock2D"]
        layers_per_block = 1
        norm_num_groups = 4
        add_attention = false
        [schedule]
        name = "squaredcos_cap_v2"
        [prior]
        prediction_type = "v_prediction"
        patch_size = 2
        [training]
        steps = 3
        batch = 2
        crop = 16
        warmup = 2
        learning_rate = 2e-3
        """
    )
    assert read_recipe(path) == (SPEC, RECIPE)


def test_the_recipe_of_the_embedded_prior() -> None:
    """It describes the network that ships: a folder that load_model accepts, and at most 25 MB in 16 bits."""
    folder = Path(__file__).parents[1] / "weights" / "photo"
    spec, recipe = read_recipe(folder / "recipe.toml")
    with torch.device("meta"):
        parameters = sum(p.numel() for p in spec.network.build().parameters())
    assert 2 * parameters < 25e6
    assert load_model(folder)[1] == spec
    assert recipe.crop % (spec.patch_size * 2 ** (len(spec.network.block_out_channels) - 1)) == 0


def test_a_run_may_begin_with_a_model(tmp_path: Path, shard: Path) -> None:
    """At a learning rate of next to nothing the weights stay what they were; another shape is refused."""
    train(SPEC, RECIPE, [shard], tmp_path / "first")
    train(SPEC, replace(RECIPE, learning_rate=1e-12, seed=9), [shard], tmp_path / "second", init=tmp_path / "first")
    torch.testing.assert_close(weights(tmp_path / "second"), weights(tmp_path / "first"), rtol=0, atol=1e-4)
    wider = replace(SPEC, network=replace(SPEC.network, block_out_channels=(8, 24)))
    with pytest.raises(ValueError, match="another shape"):
        train(wider, RECIPE, [shard], tmp_path / "third", init=tmp_path / "first")
