"""Several small restorations at once: each runs its own reverse process, and they share the network's evaluations.

Small pictures leave a processor idle: eight of 64x64 pixels together take a CPU 4.8 times as long as one, not 8 times.
Every job is a generator of questions to the network, with its own levels and noise, and knows nothing of the others.
Once every job that still runs has asked something, one evaluation answers all questions of one shape. So the jobs alone
decide what shares a batch.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from restorer.diffusion.prior import (
    Asking,
    Prediction,
    Prior,
    PriorWrapper,
    Question,
    Resources,
    WrapperResources,
    per_item,
)
from restorer.machine.memory import available, is_out_of_memory
from restorer.tasks.job import Job, Restored
from restorer.tasks.uncertain import NOTHING

__all__ = ["MAX_BATCH", "MAX_PIXELS", "batch_share", "running_together"]

MAX_BATCH = 16  # pictures in a batch
# Pixels of a batch, by device; a larger batch is no faster. Those of Apple's and Intel's devices are not measured.
MAX_PIXELS = {"cpu": 65_536, "cuda": 1_048_576, "mps": 262_144, "xpu": 1_048_576}


def batch_share(job: Job) -> float:
    """Return the share of a batch that a job takes up; 1 if it runs alone.

    A large picture with a small hole counts as a whole: the network sees little of it, but all of it would wait in
    memory.
    """
    if (job.plan is None and job.measure is None) or job.latent is not None or job.tiles > 1:
        return 1.0
    if job.candidates > 1 or job.starter is not None or job.alpha is not None or job.asked != NOTHING:
        return 1.0
    is_enlarged = job.second_pass_size is not None
    if is_enlarged or (job.second_pass is not None and job.jpeg is not None):
        return 1.0
    pixels = max(x.shape[-2] * x.shape[-1] for x in (job.start, job.image))
    return max(1 / MAX_BATCH, min(1.0, pixels / MAX_PIXELS.get(job.prior.device.type, 1)))


def running_together(jobs: Sequence[Job]) -> Generator[int, None, list[Restored | BaseException]]:
    """Run all jobs, and yield after every round of evaluations how many the jobs that still run have had.

    Args:
        jobs: Jobs whose priors are neither tiled themselves nor latent. Those of one prior share evaluations.

    Returns:
        For each job what `Job.run` returned, or the exception that it raised.
    """
    shared = {id(job.prior.prior): _Shared(job.prior.prior) for job in jobs}
    runs = [_Run(job, shared[id(job.prior.prior)]) for job in jobs]
    rounds = 0
    while asked := [(run.shared, question) for run in runs if (question := run.question()) is not None]:
        for prior, shape in dict.fromkeys((prior, question.x.shape) for prior, question in asked):
            alike = [question for other, question in asked if other is prior and question.x.shape == shape]
            most = prior.max_batch(shape)
            for first in range(0, len(alike), most):
                _answer(prior.prior, alike[first : first + most])
        rounds += 1
        yield rounds
    return [run.outcome for run in runs]


class _Run:
    """One job among others.

    Args:
        job: The job.
        shared: The prior that jobs share, which takes the place of the job's own.
    """

    def __init__(self, job: Job, shared: _Shared) -> None:
        self.shared = shared
        self._asking: Asking[Restored] | None = replace(job, prior=job.prior.with_prior(shared)).asking()
        self.outcome: Restored | BaseException = RuntimeError("the job has not ended")

    def question(self) -> Question | None:
        """Let the job go on until it asks the shared prior, and return what it asks; None once it has ended.

        What it asks another prior, which is the same in another precision, is answered at once.
        """
        while self._asking is not None:
            try:
                question = next(self._asking)
            except StopIteration as end:
                self.outcome, self._asking = self.shared.left_by(end.value), None
            except Exception as error:
                self.outcome, self._asking = error, None
            else:
                if question.prior is self.shared:
                    return question
                question.evaluate()
        return None


def _answer(prior: Prior, questions: Sequence[Question]) -> None:
    """Answer questions by one evaluation, or by halves if there is no memory for it."""
    prediction, error = _predict(prior, questions)
    if prediction is None and len(questions) > 1 and is_out_of_memory(error):
        half = len(questions) // 2
        _answer(prior, questions[:half])
        _answer(prior, questions[half:])
        return
    at = 0
    for question in questions:
        part = slice(at, at + len(question.x))
        at = part.stop
        question.settle(error if prediction is None else prediction.part(part))


def _predict(prior: Prior, questions: Sequence[Question]) -> tuple[Prediction | None, Exception]:
    """Return the prediction, or None and the error. An out-of-memory error loses its frames, which hold tensors."""
    try:
        x, sigma = torch.cat([q.x for q in questions]), torch.cat([per_item(q.sigma, q.x) for q in questions])
        return prior.predict(x, sigma), Exception()
    except Exception as error:
        return None, error.with_traceback(None) if is_out_of_memory(error) else error


class _Shared(PriorWrapper):
    """The prior that jobs ask together."""

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        self._resources = _SharedResources(prior)
        free = available(prior.device)
        self._room = None if free is None else free - prior.resources.kept_bytes()

    def max_batch(self, shape: torch.Size) -> int:
        """Return how many questions of a shape one evaluation may answer in the memory there is."""
        each = self.prior.resources.evaluation_bytes(shape[-2] * shape[-1])
        return MAX_BATCH if not each or self._room is None else max(1, self._room // each)

    @property
    def resources(self) -> Resources:
        """Resources of the prior; a job that changes the precision asks by itself from then on."""
        return self._resources

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Evaluate the prior for one job; see `Prior.predict`. There is no condition."""
        return self.prior.predict(x, sigma)

    def left_by(self, restored: Restored) -> Restored:
        """Return the result of a job with the real prior in place of this one."""
        used = restored.prior
        return replace(restored, prior=used.with_prior(self.prior)) if used.prior is self else restored


class _SharedResources(WrapperResources):
    """Resources of a `_Shared` prior, whose other precisions are made once for all jobs."""

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior)
        self.full_precision = cache(self._inner.full_precision)  # type: ignore[method-assign]
        self.low_precision = cache(self._inner.low_precision)  # type: ignore[method-assign]
