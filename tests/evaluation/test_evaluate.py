"""Degradation and measurement agree with closed forms, Pillow and scikit-image; the verb `evaluate` works."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gaussian import GaussianPrior
from PIL import Image
from stubs import Smooth, Spy

from restorer.cli.app import run
from restorer.cli.commands.evaluate import MASK_KINDS
from restorer.cli.terminal.multi_values import is_number, repeat_option_names
from restorer.diffusion.objective import prior_term
from restorer.diffusion.prior import Prediction
from restorer.diffusion.schedule import Schedule
from restorer.errors import PictureError, UsageError
from restorer.evaluation import baselines
from restorer.evaluation import evaluate as evaluate_module
from restorer.evaluation.baselines import baseline_methods
from restorer.evaluation.bound import bits_per_dimension, centre_crop
from restorer.evaluation.contact_sheet import contact_sheet
from restorer.evaluation.degraded import Condition, degrade, derive_seed
from restorer.evaluation.evaluate import OURS, Scores, evaluate, mean_scores, measure, side_by_side
from restorer.evaluation.metrics import psnr, ssim, to_y
from restorer.evaluation.trial_masks import MASKS, draw_mask, find_masks
from restorer.models import load as models_load
from restorer.models.checkpoints import save_model
from restorer.networks.unet import UNetConfig
from restorer.priors.unet_prior import ModelSpec

TESTS = Path(__file__).resolve().parents[1]
PHOTOGRAPH = TESTS / "images" / "small.png"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Draw random 8-bit values in [0, 1]."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 255


def photograph(height: int = 64, width: int = 80) -> torch.Tensor:
    """Return a corner of a photograph, (3, height, width) in [0, 1]."""
    with Image.open(PHOTOGRAPH) as image:
        pixels = np.asarray(image.convert("RGB"))[:height, :width]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


# ---------------------------------------------------------------------------------------------------------- degradation


def test_noise_has_the_stated_strength() -> None:
    """Noise of 25 levels that is not clipped is 20 log10(255 / 25) = 20.17 dB for any picture, as published."""
    black = torch.zeros(3, 256, 256)
    sample = degrade(black, Condition("denoise", sigma=25), seed=1)
    assert measure(sample.degraded, sample).psnr == pytest.approx(20 * math.log10(255 / 25), abs=0.03)
    clipped = degrade(black, Condition("denoise", sigma=25), seed=1, eight_bit=True)
    assert torch.equal(clipped.degraded, (sample.degraded.clamp(0, 1) * 255).round() / 255)
    # On black, clipping removes half of the noise.
    assert measure(clipped.degraded, clipped).psnr == pytest.approx(
        20 * math.log10(255 / 25) + 10 * math.log10(2), abs=0.1
    )


def test_seeds_depend_on_the_name_and_the_seed_alone() -> None:
    """The same seed gives the same noise, and each pair of seed and name gives another seed."""
    truth, condition, seed = random(3, 16, 16), Condition("denoise", sigma=10), derive_seed(0, "a.png")
    first, second = degrade(truth, condition, seed), degrade(truth, condition, seed)
    assert torch.equal(first.degraded, second.degraded)
    seeds = {derive_seed(seed, name) for seed in range(3) for name in ("a.png", "b.png", "c/a.png")}
    assert len(seeds) == 9 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_shrinking_is_pillows(scale: int, channels: int) -> None:
    """The sides are cropped to a multiple of the scale, and the picture is shrunk by Pillow's bicubic filter."""
    truth = photograph(65, 79)[:channels]
    sample = degrade(truth, Condition("upscale", scale=scale), seed=0)
    height, width = 65 // scale, 79 // scale
    assert torch.equal(sample.truth, truth[:, : height * scale, : width * scale])
    pixels = (sample.truth * 255).byte().permute(1, 2, 0).numpy().squeeze()
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    assert torch.equal(
        sample.degraded, torch.from_numpy(small.reshape(height, width, channels) / 255).permute(2, 0, 1).float()
    )


def test_pictures_too_small_to_be_compared_are_refused() -> None:
    """A picture smaller than the window of SSIM, after cropping and without the border, is an error."""
    assert degrade(random(3, 11, 11), Condition("denoise", sigma=1), 0).truth.shape == (3, 11, 11)
    with pytest.raises(PictureError, match="10x11"):
        degrade(random(3, 11, 10), Condition("denoise", sigma=1), 0)
    # A side of 19 is 16 after cropping to a multiple of 4, and 8 without the border.
    with pytest.raises(PictureError, match="19x40"):
        degrade(random(3, 40, 19), Condition("upscale", scale=4), 0)


# ---------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_drawn_from_the_seed(kind: str) -> None:
    """A mask has holes and known pixels, is the same for the same seed, and is another one for another seed."""
    mask = draw_mask(kind, 120, 160, seed=3)
    assert mask.shape == (120, 160) and mask.dtype == bool and 0 < mask.sum() < mask.size
    assert np.array_equal(mask, draw_mask(kind, 120, 160, seed=3))
    assert not np.array_equal(mask, draw_mask(kind, 120, 160, seed=4))


def test_how_much_masks_cover() -> None:
    """Each kind of mask covers the stated share of the picture, and an unknown kind is a usage error."""
    assert draw_mask("random", 200, 200, 0).mean() == pytest.approx(0.7, abs=0.01)
    boxes = draw_mask("box", 320, 480, 1)
    assert 64**2 < boxes.sum() <= 2 * 64**2
    assert draw_mask("box", 100, 300, 1).sum() <= 2 * 20**2
    for kind in ("text", "scratch"):
        assert 0.02 < draw_mask(kind, 320, 480, 0).mean() < 0.25
    with pytest.raises(UsageError, match="blots"):
        draw_mask("blots", 9, 9, 0)
    assert set(MASK_KINDS) == set(MASKS)


def test_masks_are_found_by_the_pictures_name(tmp_path: Path) -> None:
    """A mask belongs to a picture if its stem starts with the picture's stem, alone or after the folder's name."""
    names = ["Set5_head_box.png", "Other_head_box.png", "head_text.png", "head.png", "forehead_box.png", "ahead.png"]
    names += ["x_head.png", "head_random70.png", "head_box.txt"]
    for name in names:
        (tmp_path / name).touch()
    found = {kind: path.name for kind, path in find_masks(tmp_path, Path("Set5/head.png")).items()}
    expected = {
        "box": "Set5_head_box.png",
        "mask": "head.png",
        "random70": "head_random70.png",
        "text": "head_text.png",
    }
    assert found == expected
    assert find_masks(tmp_path, Path("Other/head.png"))["box"].name == "Other_head_box.png"
    assert find_masks(tmp_path, Path("Set5/tail.png")) == {}


# ------------------------------------------------------------------------------------------------------------ measuring


def test_upscaling_is_compared_on_luma_without_a_border() -> None:
    """For upscale, the figures on luma are those of scikit-image without a border as wide as the scale."""
    metrics = pytest.importorskip("skimage.metrics")
    sample = degrade(photograph(), Condition("upscale", scale=4), 0)
    bicubic = baseline_methods(sample)["bicubic"]()
    scores = measure(bicubic, sample)
    ours, truth = (to_y(x.double())[0, 4:-4, 4:-4].numpy() for x in (bicubic, sample.truth))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    assert scores.psnr_y == pytest.approx(metrics.peak_signal_noise_ratio(truth, ours, data_range=1.0), abs=1e-9)
    assert scores.ssim_y == pytest.approx(metrics.structural_similarity(truth, ours, **options), abs=1e-9)
    assert scores.psnr == psnr(bicubic, sample.truth) and scores.ssim == ssim(bicubic, sample.truth)


def test_holes_are_measured_apart() -> None:
    """An error of 1/8 in a quarter of the pixels is 18.06 dB there, and 6.02 dB more over the whole picture."""
    truth = torch.full((3, 16, 16), 0.5)
    fill = torch.zeros(16, 16, dtype=torch.bool)
    fill[:8, :8] = True
    sample = degrade(truth, Condition("inpaint", kind="box"), 0, fill=fill)
    assert torch.equal(sample.degraded, torch.where(fill, 1.0, truth))
    scores = measure(torch.where(fill, 0.625, truth), sample)
    assert scores.psnr_holes == pytest.approx(20 * math.log10(8), abs=1e-6)
    assert scores.psnr == pytest.approx(20 * math.log10(8) + 10 * math.log10(4), abs=1e-6)


def test_means_leave_out_what_does_not_apply() -> None:
    """The mean of a figure is taken over the pictures that have it."""
    mean = mean_scores([Scores(20.0, 0.5, seconds=1.0), Scores(30.0, 1.0, psnr_holes=7.0, seconds=2.0)])
    assert mean == Scores(25.0, 0.75, psnr_holes=7.0, seconds=1.5)


def test_one_step_is_as_good_as_theory_says() -> None:
    """The posterior mean of Gaussian pixels has the mean squared error v s^2 / (v + s^2), a quarter of it on [0, 1]."""
    v, s = 0.01, 2 * 25 / 255
    truth = 0.5 + 0.05 * torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(2))
    sample = degrade(truth, Condition("denoise", sigma=25), seed=9)
    shares: list[float] = []
    outcome = evaluate(sample, GaussianPrior(0.0, v), steps=1, on_progress=lambda done, n: shares.append(done / n))
    expected = -10 * math.log10(v * s**2 / (v + s**2) / 4)
    assert outcome.scores[OURS].psnr == pytest.approx(expected, abs=0.05)
    assert outcome.scores[OURS].evaluations == 1 and outcome.detail == 0
    assert shares[-1] == 1 and sorted(shares) == shares


@pytest.mark.parametrize(
    "condition",
    [Condition("denoise", sigma=20), Condition("upscale", scale=2), Condition("inpaint", kind="text")],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_task_with_its_rivals(condition: Condition, channels: int) -> None:
    """Each task restores a picture of the right size, rounded to 8 bits, and measures its baselines."""
    pytest.importorskip("cv2")
    spy = Spy(Smooth())
    outcome = evaluate(degrade(photograph()[:channels], condition, 0), spy, baselines=True, steps=3, eight_bit=True)
    assert outcome.restored.shape == outcome.sample.truth.shape
    assert torch.equal(outcome.restored, (outcome.restored * 255).round() / 255)
    assert len(spy.calls) == outcome.scores[OURS].evaluations == 3
    names = {"denoise": ["noisy", "NLM"], "upscale": ["bicubic"], "inpaint": ["Telea", "Navier-Stokes"]}
    assert list(outcome.scores) == [OURS, *names[condition.task]]
    assert all(math.isfinite(scores.psnr) and 0 < scores.ssim < 1 for scores in outcome.scores.values())
    if condition.task == "denoise":
        assert outcome.scores["NLM"].psnr > outcome.scores["noisy"].psnr + 1


def test_without_opencv_its_rivals_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """If OpenCV is not installed, its baselines are left out."""
    monkeypatch.setattr(baselines, "has_opencv", lambda: False)
    conditions = Condition("denoise", sigma=9), Condition("upscale", scale=2), Condition("inpaint", kind="box")
    found = [list(baseline_methods(degrade(photograph(), condition, 0))) for condition in conditions]
    assert found == [["noisy"], ["bicubic"], []]


def test_the_contact_sheet_is_bounded_and_shows_what_it_says() -> None:
    """The cells of a contact sheet are at most 240 pixels wide and high, and show the amplified difference."""
    truth = torch.full((3, 300, 500), 0.5)
    outcome = evaluate(degrade(truth, Condition("denoise", sigma=0), 0), Smooth())
    inexact = evaluate_module.Outcome(outcome.sample, truth + 0.1, 0.0, outcome.scores)
    noisy, restored, true, difference = side_by_side(inexact)
    assert noisy.shape == restored.shape == true.shape == difference.shape == (3, 240, 240)
    assert torch.allclose(difference, torch.full_like(difference, 0.5), atol=1e-6)  # 0.1 amplified five times
    sheet = contact_sheet(["a", "b", "c", "d"], [("first", [noisy, restored, true, difference])] * 2)
    assert sheet.size == (4 * 248 + 8, 22 + 2 * (22 + 240 + 8))
    small = evaluate(degrade(photograph(), Condition("upscale", scale=4), 0), Smooth(), steps=1)
    assert {x.shape for x in side_by_side(small)} == {(3, 64, 80)}


def test_the_sheet_shows_the_holes() -> None:
    """For inpaint, the cells show the section of the picture with most of the holes."""
    fill = torch.zeros(300, 400, dtype=torch.bool)
    fill[280:, :30] = True
    outcome = evaluate(degrade(random(3, 300, 400), Condition("inpaint", kind="box"), 0, fill=fill), Smooth(), steps=1)
    assert int((side_by_side(outcome)[0] == 1).all(0).sum()) >= 20 * 30


# ------------------------------------------------------------------------------------------------ the variational bound


def test_the_bound_of_a_prior_that_knows_the_picture() -> None:
    """If the prior knows x_0, all divergences are 0; the means over batches are weighted by the batch size."""
    schedule = Schedule("squaredcos_cap_v2", steps=20)
    crops = random(19, 3, 8, 8)
    batches = iter((2 * crops.double() - 1).split(16))
    current: dict[str, Any] = {}

    def predict(x: torch.Tensor, sigma: torch.Tensor) -> Prediction:
        if not current or len(current["x0"]) != len(x) or current["calls"] == 5:
            current.update(x0=next(batches), calls=0)
        current["calls"] += 1
        return Prediction(current["x0"])

    prior: Any = SimpleNamespace(spec=SimpleNamespace(schedule=schedule), device=torch.device("cpu"), predict=predict)
    reports: list[tuple[float, int]] = []
    bound = bits_per_dimension(prior, crops, timesteps=5, on_progress=lambda done, n: reports.append((done, n)))
    assert bound.kl == pytest.approx(0, abs=1e-12)
    assert bound.prior == pytest.approx(float(prior_term(schedule, 2 * crops.double() - 1).mean()), rel=1e-9)
    assert reports == [(i, 10) for i in range(1, 11)]


def test_crops_come_from_the_middle() -> None:
    """A crop is the middle of the picture in colour, and too small a picture is an error."""
    picture = torch.arange(48.0).reshape(1, 6, 8)
    assert torch.equal(centre_crop(picture, 2), picture[:, 2:4, 3:5].expand(3, 2, 2))
    with pytest.raises(PictureError, match="8x6"):
        centre_crop(picture, 7)


# ----------------------------------------------------------------------------------------------------- the command line


def test_several_values_after_one_option() -> None:
    """An option that takes several values may be given once with all of them."""
    options: dict[str, Callable[[str], bool]] = {"--sigma": is_number, "--kind": lambda text: text in ("box", "text")}
    for command_line, expected in {
        "--sigma 15 25 50": "--sigma 15 --sigma 25 --sigma 50",
        "--sigma 15 25 photos --limit 3": "--sigma 15 --sigma 25 photos --limit 3",
        "photos --sigma=15 25 --kind box text -v": "photos --sigma=15 --sigma 25 --kind box --kind text -v",
        "--sigma -5 1e1 --steps 4 5": "--sigma -5 --sigma 1e1 --steps 4 5",
        "--sigma x 5": "--sigma x 5",
        "--sigma 5 -- 6": "--sigma 5 -- 6",
        "--sigma": "--sigma",
    }.items():
        assert repeat_option_names(command_line.split(), options) == expected.split()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a folder of three pictures, one of them in a folder below, and replace the prior by a cheap one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    for i, name in enumerate(("a.png", "b.png", "deep/c.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((photograph(40, 48 + i) * 255).byte().permute(1, 2, 0).numpy()).save(path)
    return tmp_path


def parse_lines(out: str) -> list[dict[str, Any]]:
    """Parse the JSON lines of standard output."""
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("sigmas", ["--sigma 15 25", "--sigma 15 --sigma 25", "--sigma 15,25", "--sigma=15 25"])
def test_json(sigmas: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints one line for each picture and condition, and a summary whose means agree with these lines."""
    assert run(["evaluate", "photos", *sigmas.split(), "--steps", "1", "--json", "--baselines"]) == 0
    *results, summary = parse_lines(capsys.readouterr().out)
    assert [(Path(r["input"]).name, r["condition"]) for r in results] == [
        (name, condition) for name in ("a.png", "b.png", "c.png") for condition in ("sigma 15", "sigma 25")
    ]
    assert all(r["status"] == "ok" and r["evaluations"] == 1 and r["height"] == 40 for r in results)
    assert results[1]["baselines"]["noisy"]["psnr"] == pytest.approx(20.17, abs=0.5)
    means = {(m["condition"], m["by"]): m for m in summary["means"]}
    for by, get in (("restore", lambda r: r["psnr"]), ("noisy", lambda r: r["baselines"]["noisy"]["psnr"])):
        found = [get(r) for r in results if r["condition"] == "sigma 25"]
        assert means["sigma 25", by]["psnr"] == pytest.approx(np.mean(found), abs=1e-4)
    assert (summary["ok"], summary["failed"], summary["exit_code"]) == (3, 0, 0)


def test_figures_do_not_depend_on_which_pictures_are_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The holes of a picture depend on its name and the seed, not on the other pictures."""
    arguments = ["evaluate", "photos", "--task", "inpaint", "--mask-kind", "text", "box", "--steps", "2", "--json"]
    assert run(arguments) == 0
    before = parse_lines(capsys.readouterr().out)
    Path("photos/a.png").unlink()
    assert run([*arguments, "--limit", "1"]) == 0
    after = parse_lines(capsys.readouterr().out)
    assert [r["psnr_holes"] for r in after[:-1]] == [r["psnr_holes"] for r in before[2:4]]
    assert run([*arguments, "--seed", "1"]) == 0
    assert parse_lines(capsys.readouterr().out)[0]["psnr_holes"] != after[0]["psnr_holes"]


def test_table_csv_and_sheet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table contains the means of the CSV file, the sheet has its size, and no file is overwritten unasked."""
    arguments = ["evaluate", "photos", "--task", "upscale", "--scale", "2", "4", "--steps", "2", "--baselines"]
    assert run([*arguments, "--csv", "out.csv", "--sheet", "out.png", "-v"]) == 0
    out = capsys.readouterr().out
    assert "PSNR Y" in out and "deep/c.png" in out and "mean of 3" in out
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert len(rows) == 3 * 2 * 2
    for scale in (2, 4):
        mean = np.mean([float(r["psnr_y"]) for r in rows if r["condition"] == f"x{scale}" and r["by"] == "bicubic"])
        line = next(x for x in out.splitlines() if x.split()[:3] == [f"x{scale}", "bicubic", "mean"])
        assert line.split()[7] == f"{mean:.2f}"
    with Image.open("out.png") as sheet:
        assert sheet.width == 8 + 4 * (8 + 50) and sheet.height > 6 * 40
    assert run([*arguments, "--csv", "out.csv"]) == 7
    assert run([*arguments, "--csv", "out.csv", "--overwrite", "--limit", "1"]) == 0
    assert len(Path("out.csv").read_text().splitlines()) == 1 + 2 * 2


def test_masks_from_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Masks are found by the names of the pictures and chosen by kind; one of another size fails."""
    Path("masks").mkdir()
    for name, size in (("photos_a_box.png", (48, 40)), ("photos_a_random70.png", (48, 40)), ("b_box.png", (9, 40))):
        Image.fromarray(draw_mask("box", size[1], size[0], 0)).save(f"masks/{name}")
    arguments = ["evaluate", "photos", "--task", "inpaint", "--mask", "masks", "--steps", "1", "--json"]
    assert run(arguments) == 3  # the mask of b has another size, and c has no mask
    first, second, failed, summary = parse_lines(capsys.readouterr().out)
    assert [first["condition"], second["condition"]] == ["box", "random70"]
    assert failed["status"] == "failed" and "mask" in failed["error"]
    assert (summary["ok"], summary["failed"]) == (1, 1)
    assert run([*arguments, "--mask-kind", "random"]) == 0
    assert [r.get("condition") for r in parse_lines(capsys.readouterr().out)] == ["random70", None]
    assert run(["evaluate", "photos/deep", "--task", "inpaint", "--mask", "masks"]) == 4


def test_damaged_pictures_are_left_out_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged picture gives exit code 3 and figures of the others; if all are damaged, the exit code is 4."""
    Path("photos/b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert run(["evaluate", "photos", "--steps", "1", "--json"]) == 3
    captured = capsys.readouterr()
    *results, summary = parse_lines(captured.out)
    assert [r["status"] for r in results] == ["ok", "failed", "ok"] and results[1]["code"] == 4
    assert (summary["ok"], summary["failed"], summary["means"][0]["pictures"]) == (2, 1, 2)
    assert captured.err.count("error:") == 1 and "1 left out" in captured.err
    for name in ("a.png", "deep/c.png"):
        Path("photos", name).write_bytes(b"nothing")
    assert run(["evaluate", "photos", "--steps", "1"]) == 4


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["absent"], 4),
        (["empty"], 4),
        (["photos", "--task", "sharpen"], 2),
        (["photos", "--sigma", "300"], 2),
        (["photos", "--sigma", "much"], 2),
        (["photos", "--scale", "2"], 2),
        (["photos", "--task", "upscale", "--scale", "5"], 2),
        (["photos", "--task", "upscale", "--scale", "2.5"], 2),
        (["photos", "--task", "inpaint", "--mask-kind", "blots"], 2),
        (["photos", "--task", "inpaint", "--mask", "absent"], 4),
        (["photos", "--mask", "photos"], 2),
        (["photos", "--steps", "1", "--detail", "0.5"], 2),
        (["photos", "--limit", "0"], 2),
        (["photos", "--csv", "absent/out.csv"], 7),
        (["photos", "--sheet", "photos"], 7),
        (["photos", "--bits-per-dim", "--sigma", "5"], 2),
        (["photos", "--bits-per-dim"], 5),
    ],
    ids=str,
)
def test_exit_codes(arguments: list[str], code: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments give their exit code, one error, and no output."""
    Path("empty").mkdir()
    assert run(["evaluate", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.count("error:") == 1 and not captured.out


def test_bits_per_dim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--bits-per-dim` reports the terms of the bound and their sum, and leaves out pictures smaller than a crop."""
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 4}
    network = UNetConfig(3, 3, (8, 8), layers_per_block=1, add_attention=False, **blocks)  # type: ignore[arg-type]
    torch.manual_seed(0)
    save_model(tmp_path / "model", network.build(), ModelSpec(network, Schedule("linear")))
    for name, size in (("a.png", (70, 64)), ("b.png", (64, 80)), ("small.png", (63, 90))):
        Image.new("RGB", size, (90, 120, 150)).save(tmp_path / name)
    arguments = ["evaluate", str(tmp_path), "--bits-per-dim", "--timesteps", "4", "-m", str(tmp_path / "model")]
    assert run([*arguments, "--json"]) == 3
    failed, summary = parse_lines(capsys.readouterr().out)
    assert failed["input"].endswith("small.png") and summary["ok"] == 2
    bits = summary["bits_per_dim"]
    assert bits["total"] == pytest.approx(bits["prior"] + bits["kl"] + bits["decoder"], abs=1e-5)
    assert bits["prior"] == pytest.approx(0, abs=1e-3) and bits["kl"] > 0
    assert (summary["crop"], summary["timesteps"]) == (64, 4)
    assert run(arguments) == 3
    captured = capsys.readouterr()
    assert f"{bits['total']:.4f}" in captured.out and "64x64" in captured.out
    assert run([*arguments, "--timesteps", "1"]) == 2


def test_help_does_not_import_pytorch() -> None:
    """Neither `--help` nor an error about the arguments imports PyTorch, NumPy or Pillow."""
    script = "import sys; from restorer.cli.app import run; assert run(['evaluate', '--help']) == 0; "
    script += "assert run(['evaluate', 'absent']) == 4; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=TESTS.parent, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--mask-kind" in done.stdout
