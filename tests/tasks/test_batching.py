"""Restoration of small pictures that share the network's evaluations."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from gaussian import GaussianPrior
from PIL import Image
from stubs import Greedy, Smooth, Spy, Wrapper
from torch import Tensor

from restorer.diffusion.prior import Prediction, Prior
from restorer.errors import ModelError
from restorer.folders.provenance import parse_record
from restorer.images.files import load
from restorer.images.picture import RECORD
from restorer.models.load import load_prior
from restorer.priors.tiled import Tiled
from restorer.tasks import batching
from restorer.tasks.batching import MAX_BATCH, MAX_PIXELS, batch_share, running_together
from restorer.tasks.defaults import DENOISE
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job, Restored
from restorer.tasks.upscale import prepare_upscale

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def denoise_job(side: int, seed: int, sigma: float | None = 25.0, prior: Prior | None = None, steps: int = 3) -> Job:
    """Prepare the denoising of a square of random pixels."""
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))
    return prepare_denoise(image, sigma, steps=steps, prior=prior or Smooth())


def run_together(
    jobs: Sequence[Job], on_round: Callable[[int], None] = lambda done: None
) -> list[Restored | BaseException]:
    """Run all jobs, call a function after every round of evaluations, and return what became of each job."""
    rounds = running_together(jobs)
    while True:
        try:
            on_round(next(rounds))
        except StopIteration as end:
            return list(end.value)


def unwrap(results: list[Restored | BaseException]) -> list[Restored]:
    """Return the results, or raise the first error among them."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, Restored)]


def inpaint_job(prior: Prior) -> Job:
    """Prepare the filling of a horizontal scratch."""
    fill = torch.zeros(24, 24, dtype=torch.bool)
    fill[3:7] = True
    return prepare_inpaint(
        torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(7)), fill, steps=4, prior=prior
    )


def test_together_as_alone() -> None:
    """Jobs of different noise levels, sizes, steps and tasks give the same pictures together as alone."""
    prior = Smooth()
    small = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(8))
    jobs = [
        denoise_job(24, 0, 10.0, prior),
        denoise_job(24, 1, 50.0, prior, steps=6),
        denoise_job(16, 2, 25.0, prior),
        inpaint_job(prior),
        prepare_upscale(small, 2, steps=2, prior=prior),
        denoise_job(24, 3, None, prior),
    ]
    for job, shared in zip(jobs, unwrap(run_together(jobs)), strict=True):
        assert torch.equal(shared.image, job.run().image)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_embedded_prior_gives_the_same_in_a_batch(precision: str) -> None:
    """The pictures agree up to rounding, because a batch may add in another order."""
    prior = load_prior(device="cpu", precision=precision)
    jobs = [denoise_job(48, seed, 20.0 + 5 * seed, prior, steps=2) for seed in range(3)]
    for job, shared in zip(jobs, unwrap(run_together(jobs)), strict=True):
        assert float((shared.image - job.run().image).abs().max()) < (1e-5 if precision == "fp32" else 4e-3)


def test_one_evaluation_answers_all_of_one_shape() -> None:
    spy = Spy(Smooth())
    run_together([denoise_job(24, 0, 10.0, spy), denoise_job(24, 1, 50.0, spy), denoise_job(16, 2, 25.0, spy)])
    assert [tuple(call.x.shape) for call in spy.calls] == [(2, 3, 24, 24), (1, 3, 16, 16)] * 3


def test_jobs_of_two_priors_share_with_their_like() -> None:
    """A picture that is restored by a prior of its own is not answered by that of the others."""
    one, other = Spy(Smooth()), Spy(GaussianPrior(0.5, 0.01))
    jobs = [denoise_job(16, 0, prior=one), denoise_job(16, 1, prior=other), denoise_job(16, 2, prior=one)]
    expected = [job.run().image for job in jobs]
    one.calls.clear()
    other.calls.clear()
    results = unwrap(run_together(jobs))
    assert [len(call.x) for call in one.calls] == [2] * 3 and [len(call.x) for call in other.calls] == [1] * 3
    assert all(torch.equal(result.image, alone) for result, alone in zip(results, expected, strict=True))
    assert [result.prior.prior for result in results] == [one, other, one]


def test_who_is_done_is_not_waited_for() -> None:
    spy, rounds = Spy(Smooth()), list[int]()
    run_together(
        [denoise_job(24, 0, prior=spy, steps=2), denoise_job(24, 1, prior=spy, steps=5)], on_round=rounds.append
    )
    assert [len(call.x) for call in spy.calls] == [2, 2, 1, 1, 1] and rounds == [1, 2, 3, 4, 5]


def test_the_order_in_a_batch_is_that_of_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network sees in row k what job k asks when it is alone, and no thread is started."""
    monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail(f"{thread.name} was started"))

    def network_inputs(seeds: range) -> list[Tensor]:
        """Return what the network sees during a run."""
        spy = Spy(Smooth())
        run_together([denoise_job(16, seed, prior=spy) for seed in seeds])
        return [call.x for call in spy.calls]

    together = network_inputs(range(6))
    for k in range(6):
        alone = network_inputs(range(k, k + 1))
        assert all(torch.equal(batch[k : k + 1], x) for batch, x in zip(together, alone, strict=True))


def test_out_of_memory_halves_the_batch() -> None:
    class SmallMemory(Spy):
        """A prior that runs out of memory on more than two pictures."""

        def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
            if len(x) > 2:
                raise OUT_OF_MEMORY
            return super().predict(x, sigma, condition)

    prior = SmallMemory(Smooth())
    jobs = [denoise_job(16, seed, prior=prior) for seed in range(5)]
    for job, shared in zip(jobs, unwrap(run_together(jobs)), strict=True):
        assert torch.equal(shared.image, job.run().image) and shared.notes == ()
    assert [len(call.x) for call in prior.calls[:3]] == [2, 1, 2]


def test_what_is_too_large_by_itself_is_tiled_by_itself() -> None:
    prior = Greedy(100, OUT_OF_MEMORY, Smooth())
    large, small = unwrap(run_together([denoise_job(160, 0, prior=prior), denoise_job(16, 1, prior=prior)]))
    assert large.prior.tile == 80 and "80-pixel tiles" in large.notes[0] and small.notes == ()


@pytest.mark.parametrize("together", [False, True])
def test_an_evaluation_that_fails_keeps_no_memory(together: bool) -> None:
    """When the smaller tiles are evaluated, what the failed evaluation held is free, without the garbage collector."""
    held, alive = list[weakref.ref[Tensor]](), list[bool]()

    class Holding(Wrapper):
        """A prior that makes a large tensor in each evaluation, and runs out of memory on large pictures."""

        def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
            alive.append(any(ref() is not None for ref in held))
            features = x.repeat(1, 4, 1, 1)
            held.append(weakref.ref(features))
            if x.shape[-1] > 100:
                raise torch.OutOfMemoryError(str(OUT_OF_MEMORY))
            return super().predict(x + 0 * features[:, :3], sigma)

    job = denoise_job(160, 0, prior=Holding(Smooth()), steps=1)
    gc.disable()
    try:
        (restored,) = unwrap(run_together([job])) if together else [job.run()]
    finally:
        gc.enable()
    assert restored.prior.tile == 80 and len(alive) > 2 and not any(alive)


def test_what_one_job_raises_the_others_do_not_feel() -> None:
    class PartlyNan(Wrapper):
        """A prior that returns nan for pictures of 16 pixels."""

        def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
            return Prediction(torch.full_like(x, torch.nan) if x.shape[-1] == 16 else x)

    prior = PartlyNan()
    bad, good = run_together([denoise_job(16, 0, prior=prior), denoise_job(24, 1, prior=prior)])
    assert isinstance(bad, ModelError) and isinstance(good, Restored)


def test_a_bug_comes_back_to_the_caller() -> None:
    prior = Greedy(20, ValueError("a bug"), Smooth())
    bad, good = run_together([denoise_job(24, 0, prior=prior), denoise_job(16, 1, prior=prior)])
    assert isinstance(bad, ValueError) and isinstance(good, Restored)


def test_full_precision_is_made_once_and_asked_by_one_at_a_time() -> None:
    class Counter(Wrapper):
        """A prior that counts the threads that evaluate it at once, and keeps their largest number."""

        active = max_active = 0

        def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
            self.active += 1
            self.max_active = max(self.max_active, self.active)
            time.sleep(0.002)
            self.active -= 1
            return super().predict(x, sigma)

    class LowPrecision(Wrapper):
        """A prior that returns nan and lists every copy in full precision that is made of it."""

        copies: ClassVar[list[Counter]] = []

        def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
            return Prediction(torch.full_like(x, torch.nan))

        def full_precision(self) -> Prior | None:
            self.copies.append(Counter(Smooth()))
            return self.copies[-1]

    prior = LowPrecision()
    results = unwrap(run_together([denoise_job(16, seed, prior=prior) for seed in range(4)]))
    (copy,) = LowPrecision.copies
    assert copy.max_active == 1
    for result in results:
        assert result.prior.prior is copy and "repeated in fp32" in result.notes[0]


def test_an_interruption_ends_jobs_that_ask_alone() -> None:
    class Slow(Wrapper):
        """A prior that takes 50 ms."""

        def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
            time.sleep(0.05)
            return super().predict(x, sigma)

    class PartlyNan(Wrapper):
        """A prior that returns nan for one of two sizes; an interruption ends the rounds of the other."""

        def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
            return Prediction(torch.full_like(x, torch.nan) if x.shape[-1] == 16 else x)

        def full_precision(self) -> Prior | None:
            return Slow(Smooth())

    def interrupt(index: int) -> None:
        raise KeyboardInterrupt

    prior = PartlyNan()
    with pytest.raises(KeyboardInterrupt):
        run_together([denoise_job(16, 0, prior=prior, steps=1000), denoise_job(24, 1, prior=prior)], on_round=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("restorer")]


@pytest.mark.parametrize(("kept", "batches"), [(0, [2, 2, 1]), (60 * 16 * 16, [1, 1, 1, 1, 1])])
def test_a_batch_is_no_larger_than_there_is_memory_for(
    kept: int, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class LargeNetwork(Spy):
        """A prior that reports how much memory it takes."""

        def evaluation_bytes(self, pixels: int, *, low: bool = False) -> int:
            return 100 * pixels

        def kept_bytes(self, *, low: bool = False) -> int:
            return 0 if self.calls else kept  # the first evaluation prepacks the layers

    monkeypatch.setattr(batching, "available", lambda device: 250 * 16 * 16)
    prior = LargeNetwork(Smooth())
    run_together([denoise_job(16, seed, prior=prior, steps=2) for seed in range(5)])
    assert [len(call.x) for call in prior.calls] == batches * 2


def test_what_came_out_names_the_prior_that_was_given() -> None:
    prior = Smooth()
    (result,) = unwrap(run_together([denoise_job(16, 0, prior=prior)]))
    assert result.prior.prior is prior


def test_an_interruption_ends_every_thread() -> None:
    def interrupt(index: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run_together([denoise_job(16, seed, steps=6) for seed in range(4)], on_round=interrupt)
    assert threading.active_count() == before


# ---------------------------------------------------------------------------------------------- sharing a batch


def test_shares_of_a_batch() -> None:
    assert batch_share(denoise_job(256, 0)) == 1.0 and batch_share(denoise_job(128, 0)) == 128 * 128 / MAX_PIXELS["cpu"]
    assert batch_share(denoise_job(8, 0)) == 1 / MAX_BATCH
    assert batch_share(denoise_job(8, 0, sigma=0.0)) == 1.0  # there is nothing to evaluate
    large, fill = torch.rand(3, 300, 300), torch.zeros(300, 300, dtype=torch.bool)
    fill[5, 5] = True
    cropped = prepare_inpaint(large, fill, prior=Smooth())
    assert cropped.start.shape[-1] < 110 and batch_share(cropped) == 1.0  # the rest of the picture would wait in memory
    assert batch_share(denoise_job(64, 0, prior=Tiled(GaussianPrior(), 32, overlap=8))) == 1.0


def test_a_folder_of_small_pictures_shares_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The results are those of single runs, whether or not a file is no picture or --limit ends the run."""
    from restorer.cli.app import run
    from restorer.models import load as models_load

    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 20 if i % 5 else 150, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"in/{i:02}.png")
    Path("in/07.png").write_bytes(b"no picture")
    spy = Spy(Smooth())
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: spy)
    assert run(["denoise", "in", "-r", "-o", "out", "-q", "--seed", "3"]) == 3
    sizes = [len(call.x) for call in spy.calls]
    assert max(sizes) > 1 and sum(sizes) == 19 * DENOISE.steps
    # Number of pictures of the same shape in a batch: 4 and 12 among the first 16 pictures, 3 among the last three.
    same_shape = {0: 4, 1: 12, 8: 12, 19: 3}
    for i in same_shape:
        assert run(["denoise", f"in/{i:02}.png", "-o", "one.png", "-q", "--seed", "3", "--overwrite"]) == 0
        alone, batched = load(Path("one.png")), load(Path(f"out/{i:02}_denoised.png"))
        assert np.array_equal(alone.pixels, batched.pixels)
        counts = [record.batch for result in (alone, batched) if (record := parse_record(result.text[RECORD]))]
        assert counts == [1, same_shape[i]]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("out/")]
    assert printed == [f"out/{i:02}_denoised.png" for i in range(20) if i != 7]
    spy.calls.clear()
    assert run(["denoise", "in", "-r", "-o", "few", "-q", "--limit", "3"]) == 0
    assert len(list(Path("few").glob("*.png"))) == 3 and sum(len(call.x) for call in spy.calls) == 3 * DENOISE.steps
