"""The training loop: its random draws and losses, and tiny runs that finish, stop, resume and fail as they should."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from restorer.diffusion.schedule import Schedule
from restorer.errors import DeviceError, ModelError, OutputError, PictureError, UsageError
from restorer.models.checkpoints import load_model
from restorer.networks.residual_unet import ResidualUNetConfig
from restorer.networks.unet import UNetConfig
from restorer.priors.unet_prior import ModelSpec, UNetPrior
from restorer.training.loop import Machine, Outcome, Start, train
from restorer.training.losses import LevelMeans, draw_t, probability
from restorer.training.meter import LEVELS, Progress
from restorer.training.recipe import Recipe, read_recipe
from restorer.training.run_folder import CHECKPOINT, METRICS

PLAIN = ModelSpec(
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
SPEC = replace(PLAIN, network=ResidualUNetConfig(12, 12, (8, 16)))
LEARNED = replace(PLAIN, network=replace(PLAIN.network, out_channels=24))
RECIPE = Recipe(steps=3, batch=2, crop=16, warmup=2, learning_rate=2e-3)
CPU = Machine(device="cpu", precision="fp32", log_every=1)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Create a folder of two pictures of random pixels."""
    (tmp_path / "pictures").mkdir()
    for k, size in enumerate(((40, 24), (18, 50))):
        pixels = np.random.default_rng(k).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{k}.png")
    return tmp_path / "pictures"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Create a folder with one picture of a single colour."""
    (tmp_path / "flat").mkdir()
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(tmp_path / "flat" / "a.png")
    return tmp_path / "flat"


def weights(folder: Path) -> torch.Tensor:
    """Load all weights of a model folder as one vector."""
    return torch.cat([value.flatten() for value in load_model(folder)[0].state_dict().values()])


def checkpoint(folder: Path) -> dict[str, Any]:
    """Load the checkpoint of a run."""
    return torch.load(folder / CHECKPOINT, weights_only=True)


def is_equal(a: Any, b: Any) -> bool:
    """Return whether two checkpoints, or parts of them, are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(is_equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# -- draws -------------------------------------------------------------------------------------------------------------


def test_timesteps_are_drawn_more_often_below() -> None:
    """The lower timesteps are drawn with the share that the recipe states; without upper timesteps, all alike."""
    recipe = replace(RECIPE, low_t=600, low_share=0.7)
    t = draw_t(40_000, recipe, 1000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float64 and float(t.min()) >= 0 and float(t.max()) <= 999
    counts = torch.histc(t.float(), 10, 0, 1000) / len(t)
    expected = [0.7 / 6] * 6 + [0.3 / 3.99] * 3 + [0.3 * 99 / 399]
    assert counts.tolist() == pytest.approx(expected, abs=0.006)  # four standard errors
    assert float(draw_t(1000, recipe, 100, torch.Generator().manual_seed(0)).max()) <= 99


@pytest.mark.parametrize(("low_t", "low_share"), [(6, 0.7), (6, 1.0), (0, 0.0), (0, 0.7), (40, 0.9)])
def test_whole_timesteps_are_drawn_with_the_probability_stated(low_t: int, low_share: float) -> None:
    """The frequency of each integer timestep is the one that `probability` returns."""
    recipe = replace(RECIPE, low_t=low_t, low_share=low_share, discrete=True)
    t = draw_t(40_000, recipe, 10, torch.Generator().manual_seed(0))
    assert torch.equal(t, t.round())
    counts = torch.bincount(t.long(), minlength=10) / len(t)
    p = probability(torch.arange(10), recipe, 10)
    assert float(p.sum()) == pytest.approx(1)
    torch.testing.assert_close(counts, p.to(counts), rtol=0, atol=0.012)


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    """The learning rate is a linear warm-up multiplied by half a cosine that ends at zero."""
    recipe = replace(RECIPE, steps=1000, warmup=10, learning_rate=1.0)
    rates = [recipe.rate_at(step) for step in (0, 4, 9, 250, 500, 750, 1000)]
    cosine = [0.5 * (1 + math.cos(math.pi * s / 1000)) for s in (0, 4, 9, 250, 500, 750, 1000)]
    assert rates == pytest.approx([0.1 * cosine[0], 0.5 * cosine[1], *cosine[2:]])
    assert rates[-1] == pytest.approx(0) and rates[4] == pytest.approx(0.5)


def test_the_learning_rate_may_be_held_before_it_falls() -> None:
    """With `hold` = 0.7, the rate is at its peak for 700 of 1000 steps and follows half a cosine for the other 300.

    With `hold` = 1, the rate never falls.
    """
    recipe = replace(RECIPE, steps=1000, warmup=10, learning_rate=2.0, hold=0.7)
    assert [recipe.rate_at(step) for step in (4, 9, 350, 700)] == pytest.approx([1.0, 2.0, 2.0, 2.0])
    assert [recipe.rate_at(step) for step in (775, 850, 1000)] == pytest.approx([1 + math.sqrt(0.5), 1.0, 0.0])
    constant = replace(recipe, hold=1.0)
    assert [constant.rate_at(step) for step in (350, 999)] == pytest.approx([2.0, 2.0])


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [SPEC, PLAIN], ids=["residual", "plain"])
def test_a_run_leaves_a_folder(tmp_path: Path, pictures: Path, spec: ModelSpec) -> None:
    """A run writes a model, a recipe, a model card and images, and leaves no partial file."""
    starts: list[Start] = []
    outcome = train(spec, RECIPE, [pictures], tmp_path / "out", CPU, on_start=starts.append)
    assert (outcome.step, outcome.finished, outcome.unreadable) == (3, True, 0)
    assert starts[0].step == 0 and len(starts[0].inventory.sources) == 2
    network, found = load_model(tmp_path / "out")
    assert found == (trained := replace(spec, mirrors=True))  # because crops are mirrored
    x = torch.zeros(1, 3, 11, 7)
    assert UNetPrior(network, found).predict(x, 0.5).x0.shape == x.shape
    torch.manual_seed(RECIPE.seed)
    start = torch.cat([value.flatten() for value in spec.network.build().state_dict().values()])
    assert 1e-4 < float((weights(tmp_path / "out") - start).abs().max()) < 0.1
    assert read_recipe(tmp_path / "out" / "recipe.toml") == (trained, RECIPE)
    assert "3 steps" in (tmp_path / "out" / "README.md").read_text()
    assert Image.open(tmp_path / "out" / "samples.png").size == (4 * 66 + 2, 2 * 66 + 2)
    assert Image.open(tmp_path / "out" / "denoised.png").size == (4 * 26 + 2, 2 * 26 + 2)
    assert not [p.name for p in (tmp_path / "out").iterdir() if "partial" in p.name]


def test_metrics(tmp_path: Path, pictures: Path) -> None:
    """Progress is reported at the stated steps and at the end, and metrics.jsonl contains the same figures."""
    reports: list[Progress] = []
    train(
        SPEC,
        replace(RECIPE, steps=5),
        [pictures],
        tmp_path / "out",
        replace(CPU, log_every=2),
        on_progress=reports.append,
    )
    assert [p.step for p in reports] == [2, 4, 5]
    lines = [json.loads(line) for line in (tmp_path / "out" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5]
    for progress, line in zip(reports, lines, strict=True):
        assert line["loss"] == progress.loss and progress.rate > 0 and 0 <= progress.waiting <= 1
        drawn = [v for v in line["levels"] if v is not None]
        assert len(line["levels"]) == LEVELS and min(drawn) <= progress.loss <= max(drawn)
    assert reports[-1].left == 0


def test_a_run_depends_on_its_seed(tmp_path: Path, pictures: Path) -> None:
    """Two runs with the same seed give the same weights, and a run with another seed gives other weights."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(SPEC, replace(RECIPE, seed=seed), [pictures], tmp_path / name, CPU)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("memory", [10**9, 8000])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, pictures: Path, accumulate: int, memory: int
) -> None:
    """A run that is stopped and resumed every two steps gives the same bytes as one that is never stopped."""
    recipe, machine = replace(RECIPE, steps=6, accumulate=accumulate), replace(CPU, memory=memory)
    train(SPEC, recipe, [pictures], tmp_path / "whole", machine)
    out, calls = tmp_path / "parts", [0]

    def stop_after_two() -> bool:
        calls[0] += 1
        return calls[0] % 2 == 0

    outcomes: list[Outcome] = []
    while not outcomes or not outcomes[-1].finished:
        outcomes.append(
            train(SPEC, recipe, [pictures], out, replace(machine, threads=2), resume=True, stop=stop_after_two)
        )
    assert [outcome.step for outcome in outcomes] == [2, 4, 6]
    assert is_equal(checkpoint(out), checkpoint(tmp_path / "whole"))
    assert (out / "diffusion_pytorch_model.safetensors").read_bytes() == (
        tmp_path / "whole" / "diffusion_pytorch_model.safetensors"
    ).read_bytes()
    assert [json.loads(line)["step"] for line in (out / METRICS).read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_metrics_of_steps_that_are_taken_again_are_dropped(tmp_path: Path, pictures: Path) -> None:
    """A resumed run removes the metrics of steps that it repeats, and incomplete lines."""
    out = tmp_path / "out"
    train(SPEC, RECIPE, [pictures], out, CPU)
    with (out / METRICS).open("a") as file:
        file.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')  # written after the checkpoint and before a crash
    train(SPEC, replace(RECIPE, steps=5), [pictures], out, CPU, resume=True)
    assert [json.loads(line)["step"] for line in (out / METRICS).read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_resume_begins_where_there_is_nothing_and_overwrite_anew(tmp_path: Path, pictures: Path) -> None:
    """`resume` starts a run in an empty folder; an existing run is replaced only with `overwrite`."""
    out = tmp_path / "out"
    assert train(SPEC, RECIPE, [pictures], out, CPU, resume=True).step == 3
    first = weights(out)
    with pytest.raises(OutputError, match="already contains a run"):
        train(SPEC, RECIPE, [pictures], out, CPU)
    assert torch.equal(weights(out), first)
    starts: list[Start] = []
    train(SPEC, replace(RECIPE, seed=1), [pictures], out, CPU, overwrite=True, on_start=starts.append)
    assert starts[0].step == 0 and not torch.equal(weights(out), first)


def test_a_checkpoint_that_does_not_fit(tmp_path: Path, pictures: Path) -> None:
    """A checkpoint of another network, or a damaged one, is an error that leaves the folder as it is."""
    out = tmp_path / "out"
    train(SPEC, RECIPE, [pictures], out, CPU)
    before = weights(out)
    wider = replace(SPEC, network=replace(SPEC.network, block_out_channels=(8, 24)))
    with pytest.raises(ModelError, match="another kind"):
        train(wider, RECIPE, [pictures], out, CPU, resume=True)
    (out / CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(ModelError, match="damaged"):
        train(SPEC, RECIPE, [pictures], out, CPU, resume=True)
    assert torch.equal(weights(out), before)


def test_the_folder_holds_the_average(tmp_path: Path, pictures: Path) -> None:
    """The model in the folder has the averaged weights in 16 bits."""
    train(SPEC, RECIPE, [pictures], tmp_path / "out", CPU)
    state = checkpoint(tmp_path / "out")
    found = load_model(tmp_path / "out")[0].state_dict()
    for key, value in state["average"].items():
        assert torch.equal(found[key], value.half())
    assert any(not torch.equal(state["network"][key], value) for key, value in state["average"].items())


def test_a_run_may_begin_with_a_model(tmp_path: Path, pictures: Path) -> None:
    """With a tiny learning rate, the initial weights hardly change; a model of another shape is refused."""
    train(SPEC, RECIPE, [pictures], tmp_path / "first", CPU)
    slow = replace(RECIPE, learning_rate=1e-12, seed=9)
    train(SPEC, slow, [pictures], tmp_path / "second", CPU, init=tmp_path / "first")
    torch.testing.assert_close(weights(tmp_path / "second"), weights(tmp_path / "first"), rtol=0, atol=1e-4)
    wider = replace(SPEC, network=replace(SPEC.network, block_out_channels=(8, 24)))
    with pytest.raises(ModelError, match="not the kind"):
        train(wider, RECIPE, [pictures], tmp_path / "third", CPU, init=tmp_path / "first")
    assert not (tmp_path / "third").exists()


def test_the_loss_falls(tmp_path: Path, flat: Path) -> None:
    """The loss falls within sixty steps on a picture of a single colour."""
    reports: list[Progress] = []
    recipe = replace(RECIPE, steps=60, batch=8, warmup=5, learning_rate=1e-2)
    train(SPEC, recipe, [flat], tmp_path / "out", replace(CPU, log_every=20), on_progress=reports.append)
    assert reports[2].loss < 0.85 * reports[0].loss


def test_a_learned_variance(tmp_path: Path, pictures: Path) -> None:
    """A network with twice the output channels learns the variance, and this needs integer timesteps."""
    recipe = replace(RECIPE, discrete=True, steps=4)
    train(LEARNED, recipe, [pictures], tmp_path / "out", CPU)
    network, spec = load_model(tmp_path / "out")
    prediction = UNetPrior(network, spec).predict(torch.zeros(1, 3, 16, 16), 0.5)
    assert prediction.log_variance is not None and prediction.log_variance.shape == (1, 3, 16, 16)
    torch.manual_seed(RECIPE.seed)
    start = LEARNED.network.build().state_dict()["conv_out.weight"]
    moved = (checkpoint(tmp_path / "out")["network"]["conv_out.weight"] - start).abs().flatten(1).amax(1)
    assert float(moved[12:].min()) > 0  # the bound trains the channels of the variance
    with pytest.raises(UsageError, match="integer timesteps"):
        train(LEARNED, RECIPE, [pictures], tmp_path / "other", CPU)


def test_bf16_and_min_snr(tmp_path: Path, pictures: Path) -> None:
    """A run in bf16 keeps its weights in float32, and min-SNR weights change the result."""
    recipe = replace(RECIPE, min_snr=5.0)
    train(SPEC, recipe, [pictures], tmp_path / "a", replace(CPU, precision="bf16"))
    train(SPEC, RECIPE, [pictures], tmp_path / "b", CPU)
    assert all(value.dtype == torch.float32 for value in checkpoint(tmp_path / "a")["network"].values())
    assert not torch.equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_balanced_levels_weigh_alike() -> None:
    """The running mean of a level weights each earlier loss by 0.99 to the power of the later visits."""
    means = LevelMeans(1000, torch.device("cpu"))
    t = torch.tensor([5.0, 5.0, 995.0], dtype=torch.float64)

    def visit(*errors: float) -> list[float]:
        found = means.means(t, torch.tensor(errors))
        means.add(t, torch.tensor(errors))
        return found.tolist()

    assert visit(1.0, 2.0, 8.0) == [1, 2, 8]  # no level has a mean yet
    assert visit(4.0, 4.0, 4.0) == pytest.approx([1.5, 1.5, 8])
    factor = 0.99**2
    expected = (3 * factor + 8) / (2 * factor + 2)
    assert visit(0.0, 0.0, 0.0) == pytest.approx([expected, expected, (8 * 0.99 + 4) / 1.99])


def test_a_balanced_loss_reads_one(tmp_path: Path, flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The balanced loss is the loss divided by its mean, which is about 1 however large the loss itself is."""
    minimized: list[float] = []
    backward = torch.Tensor.backward

    def spy(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        minimized.append(float(self.detach()))
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", spy)
    recipe = replace(RECIPE, balance=True, batch=64, steps=12, learning_rate=1e-6)
    reports: list[Progress] = []
    train(SPEC, recipe, [flat], tmp_path / "out", CPU, on_progress=reports.append)
    assert minimized[0] == pytest.approx(1) and minimized[-1] == pytest.approx(1, abs=0.1)
    assert reports[-1].loss == pytest.approx(reports[0].loss, rel=0.2) and abs(reports[-1].loss - 1) > 0.15


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
@pytest.mark.parametrize("settings", [{"optimizer": "muon"}, {"optimizer": "muon", "balance": True}])
def test_muon_and_balance_go_on_as_they_stopped(tmp_path: Path, pictures: Path, settings: dict[str, Any]) -> None:
    """The checkpoint contains the state of Muon and the running means, so a resumed run gives the same bytes."""
    recipe = replace(RECIPE, steps=5, **settings)
    train(SPEC, recipe, [pictures], tmp_path / "whole", CPU)
    stops = iter([False, True])
    train(SPEC, recipe, [pictures], tmp_path / "parts", CPU, stop=lambda: next(stops))
    train(SPEC, recipe, [pictures], tmp_path / "parts", CPU, resume=True)
    assert is_equal(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))
    train(SPEC, replace(RECIPE, steps=5), [pictures], tmp_path / "plain", CPU)
    assert not torch.equal(weights(tmp_path / "plain"), weights(tmp_path / "whole"))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, pictures: Path) -> None:
    """A folder with a README.md but without a checkpoint is refused and stays as it is."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    for resume in (False, True):
        with pytest.raises(OutputError, match="other files"):
            train(SPEC, RECIPE, [pictures], out, CPU, resume=resume)
    assert [p.name for p in out.iterdir()] == ["README.md"] and (out / "README.md").read_text() == "mine"


def test_a_run_does_not_train_on_its_own_pictures(tmp_path: Path, pictures: Path) -> None:
    """The images that a run writes are not training pictures, even if its folder is inside the training data."""
    starts: list[Start] = []
    train(SPEC, RECIPE, [pictures], pictures / "out", CPU, on_start=starts.append)
    train(SPEC, replace(RECIPE, steps=4), [pictures], pictures / "out", CPU, resume=True, on_start=starts.append)
    assert [len(start.inventory.sources) for start in starts] == [2, 2]


def test_a_full_disk(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full, earlier files are kept, no partial file is left, and the error names the folder."""
    out = tmp_path / "out"
    train(SPEC, RECIPE, [pictures], out, CPU)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def fail(content: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match="cannot be written"):
        train(SPEC, replace(RECIPE, steps=5), [pictures], out, CPU, resume=True)
    after = {p.name: p.read_bytes() for p in out.iterdir()}
    assert {k: v for k, v in after.items() if k not in ("metrics.jsonl", "recipe.toml")} == {
        k: v for k, v in before.items() if k not in ("metrics.jsonl", "recipe.toml")
    }


def test_out_of_memory(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that runs out of memory ends the run with an error that names the batch size."""

    def fail(*args: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("restorer.training.step.losses", fail)
    with pytest.raises(DeviceError, match="batch of 2"):
        train(SPEC, RECIPE, [pictures], tmp_path / "out", CPU)


def test_what_cannot_be_trained(tmp_path: Path, pictures: Path) -> None:
    """Settings that cannot work are refused before the folder is created."""
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="multiple of 4"):
        train(SPEC, replace(RECIPE, crop=18), [pictures], out, CPU)
    with pytest.raises(UsageError, match="fp16"):
        train(SPEC, RECIPE, [pictures], out, replace(CPU, precision="fp16"))
    with pytest.raises(UsageError, match="cannot be combined"):
        train(SPEC, RECIPE, [pictures], out, CPU, resume=True, overwrite=True)
    with pytest.raises(UsageError, match="colour"):
        train(replace(SPEC, patch_size=1), RECIPE, [pictures], out, CPU)
    with pytest.raises(PictureError):
        train(SPEC, replace(RECIPE, crop=64), [pictures], out, CPU)
    with pytest.raises(OutputError):
        train(SPEC, RECIPE, [pictures], pictures / "0.png" / "inside", CPU)
    assert not out.exists()


# -- the loss of a network that knows the right output -----------------------------------------------------------------


class Oracle(nn.Module):
    """A network for pictures of a single known colour, whose output is `scale` times the right one."""

    colour, kind, scale = 200 / 127.5 - 1, "v_prediction", 1.0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(self.scale))

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return v or eps, computed from the known colour."""
        alpha_bar = (1 / (1 + PLAIN.schedule.sigma_at(t) ** 2)).view(-1, 1, 1, 1)
        eps = (x_t - alpha_bar.sqrt() * self.colour) / (1 - alpha_bar).sqrt()
        v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * self.colour
        return self.weight * {"v_prediction": v, "epsilon": eps}[self.kind].float()


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> type[Oracle]:
    """Replace the network by an `Oracle`, of which only the checkpoint is saved."""
    monkeypatch.setattr(UNetConfig, "build", lambda config: Oracle())
    monkeypatch.setattr(
        "restorer.training.run_folder.RunFolder.save",
        lambda self, average, state, **options: torch.save(state, self.path / CHECKPOINT),
    )
    monkeypatch.setattr("restorer.training.loop.load_model", lambda folder: None)
    return Oracle


@pytest.mark.parametrize("answer", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_the_loss_is_zero_for_the_right_answer_alone(
    tmp_path: Path, flat: Path, monkeypatch: pytest.MonkeyPatch, oracle: type[Oracle], kind: str, answer: str
) -> None:
    """The loss is zero at all levels if the network's output is what the prediction type asks for, and only then."""
    monkeypatch.setattr(oracle, "kind", answer)
    recipe, reports = replace(RECIPE, steps=4, batch=32, learning_rate=1e-9), list[Progress]()
    spec, machine = replace(PLAIN, prediction_type=kind), replace(CPU, log_every=4)
    train(spec, recipe, [flat], tmp_path / "out", machine, on_progress=reports.append)
    losses = [value for value in reports[0].levels if not math.isnan(value)]
    assert len(losses) > 5
    if answer == kind:
        assert max(losses) <= 1e-4
    else:
        assert max(losses) > 0.5


def test_steps_go_downhill(tmp_path: Path, flat: Path, monkeypatch: pytest.MonkeyPatch, oracle: type[Oracle]) -> None:
    """Starting at an output of zero, each step of Adam moves by about the learning rate towards the right output."""
    monkeypatch.setattr(oracle, "scale", 0.0)
    recipe = replace(RECIPE, steps=4, batch=32, learning_rate=0.1, warmup=1, ema=0.5)
    train(PLAIN, recipe, [flat], tmp_path / "out", CPU)
    state = checkpoint(tmp_path / "out")
    rates = [recipe.rate_at(step) for step in range(4)]
    assert float(state["network"]["weight"]) == pytest.approx(sum(rates), rel=0.1)
    # The decay of the average is min(ema, (1 + n) / (10 + n)) after step n.
    weight = average = 0.0
    for n, rate in enumerate(rates, 1):
        weight += rate
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weight
    assert float(state["average"]["weight"]) == pytest.approx(average, rel=0.1)


def test_accumulation_is_a_larger_batch(
    tmp_path: Path, flat: Path, monkeypatch: pytest.MonkeyPatch, oracle: type[Oracle]
) -> None:
    """Two passes of 128 crops have about the gradient of one pass of 256 crops, because all crops are equal here.

    The gradients differ by the random t and noise only, which average out over so many crops.
    """
    monkeypatch.setattr(oracle, "scale", 0.0)
    gradients = []
    for name, batch, accumulate in (("one", 256, 1), ("two", 128, 2)):
        recipe = replace(RECIPE, steps=1, batch=batch, accumulate=accumulate, clip_gradient=1e9, warmup=1)
        reports: list[Progress] = []
        train(PLAIN, recipe, [flat], tmp_path / name, CPU, on_progress=reports.append)
        gradients.append(reports[0].gradient)
    assert gradients[0] == pytest.approx(gradients[1], rel=0.1) and gradients[0] > 0.1


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, pictures: Path) -> None:
    """A loss that is not finite ends the run with an error that names the last good checkpoint, which is kept."""
    out = tmp_path / "out"
    train(SPEC, RECIPE, [pictures], out, CPU)
    before = checkpoint(out)
    unstable = replace(RECIPE, steps=9, learning_rate=1e12, warmup=1)
    with pytest.raises(ModelError, match=r"not finite at step \d.*checkpoint.pt"):
        train(SPEC, unstable, [pictures], out, CPU, resume=True)
    assert is_equal(checkpoint(out), before)
    with pytest.raises(ModelError, match="not finite"):
        train(SPEC, unstable, [pictures], tmp_path / "new", CPU)
    assert checkpoint(tmp_path / "new")["step"] == 0  # the folder is a model before the first step
    load_model(tmp_path / "new")


def test_diffusers_gives_the_same_output(diffusers: ModuleType, tmp_path: Path, pictures: Path) -> None:
    """The reference implementation reads the folder of a run and computes the same output."""
    train(PLAIN, RECIPE, [pictures], tmp_path / "out", CPU)
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "out", torch_dtype=torch.float32).eval()
    ours = load_model(tmp_path / "out")[0].float().eval()
    x = torch.randn(1, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(x, torch.tensor([321.0])), theirs(x, 321).sample)
