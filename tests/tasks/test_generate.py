"""Sampling without a measurement: the distribution of every method, one picture per seed, and the verb `generate`.

For Gaussian pixels x_0 ~ N(mu, v I), every method draws from a Gaussian distribution. `moments` derives its mean and
variance independently, in the terms of the papers.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian import GaussianPrior
from PIL import Image
from stubs import Imprecise, Smooth, Spy
from torch import Tensor, nn

from restorer.cli.app import run
from restorer.diffusion.plan import Plan
from restorer.diffusion.schedule import Schedule
from restorer.errors import ModelError, UsageError
from restorer.models import load as models_load
from restorer.models.checkpoints import save_model
from restorer.networks.unet import UNetConfig
from restorer.priors.unet_prior import ModelSpec, UNetPrior
from restorer.tasks.generate import generate, grid, prepare_generate

MU, V = 0.1, 0.02
OWN = Schedule("linear", 50, 1e-3, 0.25)
METHODS = [("ddpm", "small"), ("ddpm", "large"), ("ddim", None), ("langevin", None)]


class Network(nn.Module):
    """The exact network for N(mu, v I): eps = (x_t - sqrt(abar) E[x_0 | x_t]) / sqrt(1 - abar).

    Args:
        fraction: v of eq. 15 of Nichol & Dhariwal, the learned variance, which is the same for every pixel; None if
            the network has not learned a variance.
    """

    stride = 1

    def __init__(self, fraction: float | None = None) -> None:
        super().__init__()
        self.fraction = fraction

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        abar = (1 / (1 + OWN.sigma_at(t) ** 2)).float().view(-1, 1, 1, 1)
        mean = MU + V * abar.sqrt() / (V * abar + 1 - abar) * (x - abar.sqrt() * MU)
        eps = (x - abar.sqrt() * mean) / (1 - abar).sqrt()
        return eps if self.fraction is None else torch.cat([eps, torch.full_like(eps, 2 * self.fraction - 1)], 1)


def network_prior(fraction: float | None = None) -> UNetPrior:
    """Return the prior of `Network`."""
    shape = UNetConfig(out_channels=3 if fraction is None else 6)
    return UNetPrior(Network(fraction), ModelSpec(shape, OWN, clip=False))


def make_plan(method: str, variance: str | None, steps: int, prior: GaussianPrior | UNetPrior | None = None) -> Plan:
    """Return the plan of `generate`, by default for a Gaussian prior."""
    prior = prior or GaussianPrior(MU, V)
    [job] = prepare_generate([0], (8, 8), method=method, variance=variance, steps=steps, prior=prior)
    assert job.plan is not None
    return job.plan


def moments(method: str, levels: tuple[float, ...], fraction: float = 0.0) -> tuple[float, float]:
    """Return the mean and the variance of the generated pixels.

    They are derived in the variance-preserving terms of the papers, y = sqrt(abar) x: DDPM by eq. 7 and 11 of Ho et al.
    2020; DDIM by eq. 12 of Song et al. 2021; Langevin by algorithm 5 of Song et al. 2021 with r = .16, where the norm
    of the score is taken as that of white noise divided by its level.

    Args:
        method: The method.
        levels: Noise levels of the steps.
        fraction: Where the variance of DDPM lies between log beta~ (0) and log beta (1).
    """
    abars = [1 / (1 + s**2) for s in levels]
    mean, variance = 0.0, 1 - abars[0]
    for now, after in pairwise(abars):
        # E[x_0 | y] = slope y + offset.
        slope = V * math.sqrt(now) / (V * now + 1 - now)
        offset = MU * (1 - slope * math.sqrt(now))
        if after == now:
            sigma = math.sqrt((1 - now) / now)
            step = 2 * (0.16 * sigma) ** 2  # step size in x, where the score is (E[x_0] - x) / sigma^2
            rate, shift = 1 + step * (slope * math.sqrt(now) - 1) / sigma**2, step * offset / sigma**2
            mean = rate * mean + math.sqrt(now) * shift
            variance = rate**2 * variance + now * 2 * step
            continue
        if method == "ddim":
            x0_weight = math.sqrt(after) - math.sqrt(1 - after) * math.sqrt(now) / math.sqrt(1 - now)
            y_weight, fresh = math.sqrt(1 - after) / math.sqrt(1 - now), 0.0
        else:
            alpha = now / after
            x0_weight = math.sqrt(after) * (1 - alpha) / (1 - now)
            y_weight = math.sqrt(alpha) * (1 - after) / (1 - now)
            tilde = (1 - after) / (1 - now) * (1 - alpha)
            fresh = tilde ** (1 - fraction) * (1 - alpha) ** fraction if after < 1 else 0.0
        mean = (y_weight + x0_weight * slope) * mean + x0_weight * offset
        variance = (y_weight + x0_weight * slope) ** 2 * variance + fresh
    return mean, variance


def check_moments(pictures: Tensor, mean: float, variance: float) -> None:
    """Check the mean and the variance of x = 2 picture - 1 for pictures in [0, 1], to three standard errors."""
    x = 2 * pictures.double() - 1
    assert float(x.mean()) == pytest.approx(mean, abs=3 * math.sqrt(variance / x.numel()))
    assert float(x.var()) == pytest.approx(variance, abs=3 * variance * math.sqrt(2 / x.numel()))


# ------------------------------------------------------------------------------------------------- distribution


@pytest.mark.parametrize(("method", "variance"), METHODS)
def test_a_sample_has_the_law_of_its_method(method: str, variance: str | None) -> None:
    """196,608 values have the moments of the method; black and white are five standard deviations away."""
    pictures = generate(16, 64, method=method, variance=variance, steps=20, seed=1, batch=5, prior=GaussianPrior(MU, V))
    levels = make_plan(method, variance, 20).sigmas
    check_moments(pictures, *moments(method, levels, 1.0 if variance == "large" else 0.0))


@pytest.mark.parametrize("steps", [50, 13])
@pytest.mark.parametrize(
    ("method", "variance", "learned", "fraction"),
    [
        ("ddpm", None, None, 0.0),  # without a learned variance, the small one is used
        ("ddpm", "large", None, 1.0),
        ("ddpm", None, 0.4, 0.4),  # the learned variance is the default
        ("ddpm", "small", 0.4, 0.0),
        ("ddim", None, 0.4, 0.0),
        ("langevin", None, 0.4, 0.0),
    ],
)
def test_a_network_with_its_own_schedule(
    method: str, variance: str | None, learned: float | None, fraction: float, steps: int
) -> None:
    """50 levels are those of the schedule, and 13 are uniform in t. The distribution is that of the papers."""
    prior = network_prior(learned)
    levels = make_plan(method, variance, steps, prior).sigmas
    if method != "langevin":
        t = torch.linspace(49, 0, steps, dtype=torch.float64)
        np.testing.assert_allclose(levels[:-1], OWN.sigma_at(t), rtol=1e-9)
        if steps == 50:
            np.testing.assert_allclose(levels[:-1], OWN.sigmas.flip(0), rtol=1e-9)
    pictures = generate(4, 64, method=method, variance=variance, steps=steps, seed=1000, prior=prior)
    check_moments(pictures, *moments(method, levels, fraction))


@pytest.mark.parametrize(("method", "variance"), METHODS)
def test_the_law_tends_to_the_prior(method: str, variance: str | None) -> None:
    """The distance to N(mu, v) falls whenever the steps double."""
    fraction = 1.0 if variance == "large" else 0.0
    results = [moments(method, make_plan(method, variance, n).sigmas, fraction) for n in (10, 20, 40, 80, 160, 320)]
    for far, near in pairwise(results):
        assert abs(near[1] - V) < abs(far[1] - V)
    assert results[-1][0] == pytest.approx(MU, abs=1e-3)
    assert results[-1][1] == pytest.approx(V, rel=0.04)


# ------------------------------------------------------------------------------------------ one picture per seed


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


def small_prior() -> UNetPrior:
    """Return the prior of a small network with random weights, which are the same in every call."""
    torch.manual_seed(0)
    return UNetPrior(SPEC.network.build().eval(), SPEC)


@pytest.mark.parametrize("method", ["ddpm", "ddim", "langevin"])
def test_a_picture_depends_on_its_seed_alone(method: str) -> None:
    prior = GaussianPrior(0.0, V)
    whole = generate(5, (12, 8), method=method, steps=4, seed=7, prior=prior)
    assert whole.shape == (5, 3, 8, 12) and whole.dtype == torch.float32
    for batch in (1, 2, 5, 9):
        assert torch.equal(generate(5, (12, 8), method=method, steps=4, seed=7, batch=batch, prior=prior), whole)
    for k in range(5):
        assert torch.equal(generate(1, (12, 8), method=method, steps=4, seed=7 + k, prior=prior)[0], whole[k])
    assert len({picture.numpy().tobytes() for picture in whole}) == 5
    torch.manual_seed(99)  # the global generator has no influence
    assert torch.equal(generate(5, (12, 8), method=method, steps=4, seed=7, prior=prior), whole)


@pytest.mark.parametrize("method", ["ddpm", "ddim", "langevin"])
def test_a_batch_changes_no_picture_of_a_network(method: str) -> None:
    """Pictures differ only by the rounding of a convolution in another batch."""
    prior = small_prior()
    one, three = (generate(5, (16, 10), method=method, steps=5, batch=batch, prior=prior) for batch in (1, 3))
    torch.testing.assert_close(one, three, rtol=0, atol=1e-4)
    assert float(one.std()) > 0.05


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("method", ["ddpm", "ddim", "langevin"])
def test_steps_are_network_evaluations(method: str, steps: int) -> None:
    spy, seen = Spy(), []
    generate(5, 8, method=method, steps=steps, batch=2, prior=spy, on_step=lambda step: seen.append(step.index))
    assert len(spy.calls) == 3 * steps
    assert [len(call.x) for call in spy.calls] == [2] * 2 * steps + [1] * steps
    assert seen == list(range(1, steps + 1)) * 3


def test_pictures_are_clipped_at_the_end_only() -> None:
    """For N(0, 4) the states on the way leave [-1, 1], but the pictures do not."""
    spy = Spy(GaussianPrior(0.0, 4.0))
    pictures = generate(1, 32, steps=30, prior=spy)
    assert all(float(call.x0.abs().max()) > 1.5 for call in spy.calls[-15:])
    assert float(pictures.min()) == 0 and float(pictures.max()) == 1
    torch.testing.assert_close(pictures, ((spy.calls[-1].x0 + 1) / 2).clamp(0, 1))


def test_the_size_is_the_network_s_own_by_default() -> None:
    prior = GaussianPrior(0.0, V)
    assert generate(1, steps=1, prior=prior).shape == (1, 3, 64, 64)
    prior.native_size = 24
    assert generate(1, steps=1, prior=prior).shape == (1, 3, 24, 24)
    prior.channels = 1
    assert generate(2, 8, steps=1, prior=prior).shape == (2, 1, 8, 8)
    prior.channels = 4
    with pytest.raises(ModelError, match="4 channels"):
        generate(1, 8, steps=1, prior=prior)


def test_nan_in_low_precision_is_repeated() -> None:
    precise = GaussianPrior(0.0, V)
    [job] = prepare_generate([3], (8, 8), steps=3, prior=Imprecise(precise))
    done = job.run()
    assert torch.equal(done.image, generate(1, 8, steps=3, seed=3, prior=precise))
    assert "fp32" in done.notes[0]
    with pytest.raises(ModelError):
        generate(1, 8, steps=3, prior=Imprecise(None))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"count": 0}, "number of images"),
        ({"count": -1}, "number of images"),
        ({"size": 0}, "width and height"),
        ({"size": (8, -1)}, "width and height"),
        ({"size": 100_000}, "width and height"),
        ({"method": "repaint"}, "method"),
        ({"variance": "middle"}, "variance"),
        ({"variance": "large", "method": "ddim"}, "variance"),
        ({"variance": "learned"}, "variance"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"batch": 0}, "batch"),
    ],
    ids=str,
)
def test_values_out_of_range(bad: dict[str, object], message: str) -> None:
    spy = Spy()
    with pytest.raises(UsageError, match=message):
        generate(**{"count": 1, "size": 8, "prior": spy, **bad})
    assert not spy.calls


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (5, 2, 3), (16, 4, 4)])
def test_the_grid(count: int, rows: int, columns: int) -> None:
    pictures = torch.rand(count, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    sheet = grid(pictures, gap=2)
    assert sheet.shape == (3, 6 * rows - 2, 8 * columns - 2)
    for k, picture in enumerate(pictures):
        top, left = 6 * (k // columns), 8 * (k % columns)
        assert torch.equal(sheet[:, top : top + 4, left : left + 6], picture)
    # Everything beside the pictures is white.
    expected = torch.cat([pictures.flatten(), torch.ones(sheet.numel() - pictures.numel())])
    assert float(sheet.double().sum()) == pytest.approx(float(expected.double().sum()))


# ------------------------------------------------------------------------------------------------------- the verb


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("RESTORER_DEBUG", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Return a function that runs `restore generate` with a small network from a model folder.

    It returns the exit code, the standard output and the standard error.
    """
    model = tmp_path_factory.mktemp("model")
    save_model(model, small_prior().network, SPEC)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        options = ["-m", str(model), "--device", "cpu", "--precision", "fp32", "--steps", "3"]
        code = run(["generate", *options, *map(str, arguments)])
        return (code, *capsys.readouterr())

    return call


def pixels(name: str) -> np.ndarray:
    """Return the pixels of an image file."""
    with Image.open(name) as image:
        return np.asarray(image)


def list_files() -> list[str]:
    """Return the paths of all files below the working folder, sorted."""
    return sorted(p.as_posix() for p in Path().rglob("*") if p.is_file())


def test_a_grid_and_single_files(command: Command) -> None:
    code, out, err = command("-n", 5, "--size", "12x8")
    assert (code, out) == (0, "generated.png\n")
    assert list_files() == ["generated.png"]
    assert "5 of 12x8" in err and "ddpm (small variance)" in err and "3 steps" in err and "seed 0" in err
    assert err.splitlines()[-1].startswith("wrote generated.png · 40x18 · ")
    sheet = pixels("generated.png")
    assert sheet.shape == (2 * 8 + 2, 3 * 12 + 2 * 2, 3)

    code, out, _ = command("-n", 3, "--size", "12x8", "--seed", 2, "-o", "some/", "--batch", 2, "-q")
    names = [f"some/seed000{seed}_generated.png" for seed in (2, 3, 4)]
    assert code == 0 and out.splitlines() == names == list_files()[1:]
    for k, name in zip((2, 3, 4), names, strict=True):
        top, left = 10 * (k // 3), 14 * (k % 3)
        place = sheet[top : top + 8, left : left + 12].astype(int)
        assert np.abs(pixels(name).astype(int) - place).max() <= 1  # a batch of another size


def test_the_same_seed_gives_the_same_bytes(command: Command) -> None:
    for method in ("ddpm", "ddim", "langevin"):
        for name in ("a", "b"):
            assert command("-n", 2, "--size", 8, "--method", method, "-o", f"{method}_{name}.png")[0] == 0
        assert Path(f"{method}_a.png").read_bytes() == Path(f"{method}_b.png").read_bytes()
    assert command("-n", 2, "--size", 8, "--method", "ddim", "--seed", 1, "-o", "other.png")[0] == 0
    assert len({Path(name).read_bytes() for name in ("ddpm_a.png", "ddim_a.png", "langevin_a.png", "other.png")}) == 4


def test_nothing_is_overwritten_unless_told(command: Command) -> None:
    assert command("-n", 1, "--size", 8)[0] == 0
    before = Path("generated.png").read_bytes()
    code, out, err = command("-n", 1, "--size", 8, "--seed", 1)
    assert (code, out) == (7, "") and "generated.png exists" in err
    assert Path("generated.png").read_bytes() == before
    assert command("-n", 1, "--size", 8, "--seed", 1, "--overwrite")[0] == 0
    after = Path("generated.png").read_bytes()
    assert after != before
    code, out, err = command("-n", 1, "--size", 8, "--skip-existing")
    assert (code, out) == (0, "") and "skipped" in err and Path("generated.png").read_bytes() == after


def test_a_folder_is_completed(command: Command) -> None:
    """If a file exists, nothing is generated, unless --skip-existing leaves that file out."""
    assert command("-n", 1, "--size", 8, "--seed", 1, "-o", "some/")[0] == 0
    before = list_files()
    code, _, err = command("-n", 3, "--size", 8, "-o", "some/")
    assert code == 7 and "seed0001_generated.png exists" in err and list_files() == before
    code, out, _ = command("-n", 3, "--size", 8, "-o", "some", "--skip-existing")
    assert code == 0 and out.splitlines() == ["some/seed0000_generated.png", "some/seed0002_generated.png"]
    assert len(list_files()) == 3
    fresh = Path("some/seed0002_generated.png").read_bytes()
    assert command("-n", 1, "--size", 8, "--seed", 2, "-o", "alone.png")[0] == 0
    assert Path("alone.png").read_bytes() == fresh


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-n", "0"], 2),
        (["-n", "x"], 2),
        (["--size", "0"], 2),
        (["--size", "8x0"], 2),
        (["--size", "8x8x8"], 2),
        (["--size", "-8"], 2),
        (["--size", "wide"], 2),
        (["--method", "magic"], 2),
        (["--method", "auto"], 2),
        (["--variance", "magic"], 2),
        (["--variance", "small", "--method", "ddim"], 2),
        (["--variance", "learned"], 2),
        (["--batch", "0"], 2),
        (["--steps", "0"], 2),
        (["--seed", "-1"], 2),
        (["--json", "-o", "-"], 2),
        (["--overwrite", "--skip-existing"], 2),
        (["-o", "out.txt"], 2),
        (["-m", "absent"], 5),
        (["-d", "quantum"], 2),
        (["-o", "absent/out.png"], 7),
        (["surplus"], 2),
    ],
    ids=str,
)
def test_what_is_refused(arguments: list[str], code: int, command: Command) -> None:
    found, out, err = command("--size", 8, *arguments)
    assert (found, out) == (code, "")
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "bug" not in err
    assert not list_files()


def test_json(command: Command) -> None:
    code, out, _ = command("-n", 2, "--size", "10x8", "--json", "--seed", 4, "-o", "some/", "--variance", "large")
    *records, summary = map(json.loads, out.splitlines())
    assert code == 0 and len(records) == 2
    for seed, record in zip((4, 5), records, strict=True):
        expected = {
            "schema": 1,
            "event": "result",
            "command": "generate",
            "status": "ok",
            "output": f"some/seed000{seed}_generated.png",
            "width": 10,
            "height": 8,
            "mode": "RGB",
            "count": 1,
            "device": "cpu",
            "precision": "fp32",
            "steps": 3,
            "method": "ddpm",
            "variance": "large",
            "seed": seed,
            "batch": 2,
        }
        assert expected.items() <= record.items()
        assert len(record["model"]["sha256"]) == 64 and record["seconds"] >= 0
    assert summary.pop("seconds") >= 0
    assert summary == {"schema": 1, "event": "summary", "ok": 2, "failed": 0, "skipped": 0, "exit_code": 0}
    code, out, _ = command("-n", 2, "--json", "-o", "some/", "--seed", 4)
    record = json.loads(out)
    assert code == record["code"] == 7 and record["status"] == "failed" and record["hint"]


def test_standard_output(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    save_model(Path("model"), small_prior().network, SPEC)
    capsysbinary.readouterr()
    assert run(["generate", "-n", "2", "--size", "8", "--steps", "2", "-m", "model", "-q", "-o", "-"]) == 0
    with Image.open(io.BytesIO(capsysbinary.readouterr().out)) as image:
        assert image.format == "PNG" and image.size == (18, 8)


def test_progress_over_all_batches(command: Command) -> None:
    lines = command("-n", 4, "--size", 8, "--batch", 2, "--steps", 5)[2].splitlines()
    assert any(line.startswith("generate: step 5/10, 50 %") for line in lines)
    assert "noise levels" in command("-n", 1, "--size", 8, "-v", "--overwrite")[2]


def test_a_gray_model_makes_gray_pictures(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = GaussianPrior(0.0, V)
    prior.channels = 1
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: prior)
    monkeypatch.setattr(models_load, "find_model", lambda model: Path())
    monkeypatch.setattr(models_load, "weights_sha256", lambda folder: "")
    assert command("-n", 3, "--size", 8)[0] == 0
    assert pixels("generated.png").shape == (18, 18)


@pytest.mark.parametrize("verb", ["denoise", "inpaint", "upscale"])
def test_langevin_restores(verb: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrector serves the three tasks with the same number of evaluations, half of them at a repeated level."""
    spy = Spy(Smooth())
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: spy)
    Image.fromarray(np.random.default_rng(0).integers(60, 196, (12, 10, 3), dtype=np.uint8)).save("img.png")
    Image.fromarray(np.pad(np.full((3, 3), 255, np.uint8), ((2, 7), (3, 4)))).save("m.png")
    mask = ["--mask", "m.png"] if verb == "inpaint" else []
    assert run([verb, "img.png", *mask, "--method", "langevin", "--steps", "9", "--sigma", "20", "-o", "out.png"]) == 0
    levels = [call.sigma for call in spy.calls]
    assert len(levels) == 9 and levels == sorted(levels, reverse=True)
    assert sum(a == b for a, b in pairwise(levels)) == 4


def test_help_does_not_import_pytorch() -> None:
    script = """
import sys
from restorer.cli.app import run
assert run(["generate", "--help"]) == 0
assert run(["generate", "-n", "0"]) == 2
heavy = {"torch", "numpy", "PIL", "torchvision"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    root = Path(__file__).resolve().parents[2]
    outcome = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "--variance" in outcome.stdout
