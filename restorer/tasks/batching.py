"""Several small restorations at once: each runs its own reverse process, and they share the network's evaluations.

Small pictures leave a processor idle: eight of 64x64 pixels together take a CPU 4.8 times as long as one, not 8 times.
Every job runs in a thread of its own, with its own levels and noise, and knows nothing of the others. Once every job
that still runs has asked the network something, one evaluation answers all questions of one shape, in the thread that
called `run_together`. So the jobs alone decide what shares a batch, and the speed of the threads never does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from restorer.diffusion.prior import Prediction, Prior, PriorWrapper, Resources, WrapperResources, per_item
from restorer.machine.memory import available
from restorer.tasks.job import Job, Restored, is_out_of_memory
from restorer.tasks.uncertain import NOTHING

__all__ = ["MAX_BATCH", "MAX_PIXELS", "batch_share", "run_together"]

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
    if job.asked != NOTHING:
        return 1.0
    if job.alpha is not None or (job.second_pass is not None and job.jpeg is not None):  # the second pass enlarges
        return 1.0
    pixels = max(x.shape[-2] * x.shape[-1] for x in (job.start, job.image))
    return max(1 / MAX_BATCH, min(1.0, pixels / MAX_PIXELS.get(job.prior.device.type, 1)))


def run_together(jobs: Sequence[Job], on_round: Callable[[int], None] | None = None) -> list[Restored | BaseException]:
    """Run all jobs.

    Args:
        jobs: Jobs of one prior, which is neither tiled itself nor latent.
        on_round: Function called with the number of evaluations that every job still running has had.

    Returns:
        For each job what `Job.run` returned, or the exception that it raised.
    """
    evaluator = _Evaluator(jobs[0].prior.prior, len(jobs))
    with ThreadPoolExecutor(len(jobs), thread_name_prefix="restorer") as pool:
        try:
            futures = [pool.submit(_run, job, number, evaluator) for number, job in enumerate(jobs)]
            evaluator.serve(on_round)
        finally:
            evaluator.close()
    return [_outcome(future) for future in futures]


def _run(job: Job, number: int, evaluator: _Evaluator) -> Restored:
    """Run one job in its thread, and return its result with the real prior in place of the shared one."""
    tiles = job.prior
    try:
        restored = replace(job, prior=tiles.with_prior(_Shared(evaluator, number))).run()
    finally:
        evaluator.leave()
    used = restored.prior
    inner = used.prior.prior if isinstance(used.prior, (_Alone, _Shared)) else used.prior
    return replace(restored, prior=used.with_prior(inner))


def _outcome(future: Future[Restored]) -> Restored | BaseException:
    error = future.exception()
    return future.result() if error is None else error


class _AbandonedError(Exception):
    """The thread that called `run_together` has ended, as after Ctrl-C. Nobody sees this error."""


@dataclass(eq=False)
class _Question:
    """What one job asks the network. In the end exactly one of `answer` and `error` is set."""

    number: int
    x: Tensor
    sigma: Tensor
    answer: Prediction | None = None
    error: BaseException | None = None

    @property
    def settled(self) -> bool:
        """Whether there is an answer or an error."""
        return self.answer is not None or self.error is not None


class _Evaluator:
    """The meeting point of the jobs' threads, which ask, and the calling thread, which answers.

    Args:
        prior: The prior that answers.
        count: Number of jobs.
    """

    def __init__(self, prior: Prior, count: int) -> None:
        self.prior, self.running = prior, count
        free = available(prior.device)
        self._room = None if free is None else free - prior.resources.kept_bytes()
        self._others: dict[str, Prior | None] = {}
        self._alone = threading.Lock()
        self._waiting: list[_Question] = []
        self._closed = False
        self._changed = threading.Condition()

    def ask(self, number: int, x: Tensor, sigma: float | Tensor) -> Prediction:
        """Wait until all other jobs have asked as well, and return the answer. Called in a job's thread."""
        question = _Question(number, x, per_item(sigma, x))
        with self._changed:
            if not self._closed:
                self._waiting.append(question)
                self._changed.notify_all()
                self._changed.wait_for(lambda: question.settled or self._closed)
        if question.error is not None:
            raise question.error
        if question.answer is None:
            raise _AbandonedError
        return question.answer

    def in_precision(self, precision: str) -> Prior | None:
        """Return the prior in "full" or "low" precision, made once for all jobs. Called in a job's thread."""
        with self._alone:
            if precision not in self._others:
                resources = self.prior.resources
                other = resources.full_precision() if precision == "full" else resources.low_precision()
                self._others[precision] = None if other is None else _Alone(self, other)
            return self._others[precision]

    def ask_alone(self, prior: Prior, x: Tensor, sigma: float | Tensor) -> Prediction:
        """Evaluate another prior for one job at a time. Called in a job's thread."""
        with self._alone:
            if self._closed:
                raise _AbandonedError
            return prior.predict(x, sigma)

    def leave(self) -> None:
        """Note that a job has no more questions. Called in its thread."""
        with self._changed:
            self.running -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Stop answering."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def serve(self, on_round: Callable[[int], None] | None) -> None:
        """Answer until all jobs have left."""
        rounds = 0
        while True:
            with self._changed:
                # Without a timeout, some systems do not deliver Ctrl-C to a waiting thread.
                while len(self._waiting) < self.running:
                    self._changed.wait(0.2)
                questions, self._waiting = sorted(self._waiting, key=lambda q: q.number), []
            if not questions:
                return
            for shape in dict.fromkeys(q.x.shape for q in questions):
                alike = [q for q in questions if q.x.shape == shape]
                most = self._max_batch(shape)
                for first in range(0, len(alike), most):
                    self._answer(alike[first : first + most])
            with self._changed:
                self._changed.notify_all()
            rounds += 1
            if on_round is not None:
                on_round(rounds)

    def _max_batch(self, shape: torch.Size) -> int:
        """Return how many questions of a shape one evaluation may answer in the memory there is."""
        each = self.prior.resources.evaluation_bytes(shape[-2] * shape[-1])
        return MAX_BATCH if not each or self._room is None else max(1, self._room // each)

    def _answer(self, questions: list[_Question]) -> None:
        """Answer questions by one evaluation, or by halves if there is no memory for it."""
        prediction, error = self._predict(questions)
        if prediction is None and len(questions) > 1 and is_out_of_memory(error):
            half = len(questions) // 2
            self._answer(questions[:half])
            self._answer(questions[half:])
            return
        if prediction is None:
            for question in questions:
                question.error = error
            return
        at = 0
        for question in questions:
            part = slice(at, at + len(question.x))
            at = part.stop
            log_variance = None if prediction.log_variance is None else prediction.log_variance[part]
            question.answer = Prediction(prediction.x0[part], log_variance)

    def _predict(self, questions: list[_Question]) -> tuple[Prediction | None, Exception]:
        """Return the prediction, or None and the error. An out-of-memory error loses its frames, which hold tensors."""
        try:
            x, sigma = torch.cat([q.x for q in questions]), torch.cat([q.sigma for q in questions])
            return self.prior.predict(x, sigma), Exception()
        except Exception as error:
            return None, error.with_traceback(None) if is_out_of_memory(error) else error


class _Alone(PriorWrapper):
    """The prior in another precision, which one job at a time asks by itself."""

    def __init__(self, evaluator: _Evaluator, prior: Prior) -> None:
        super().__init__(prior)
        self._evaluator = evaluator

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Evaluate the prior; see `Prior.predict`. There is no condition."""
        return self._evaluator.ask_alone(self.prior, x, sigma)


class _Shared(PriorWrapper):
    """The prior as one job sees it."""

    def __init__(self, evaluator: _Evaluator, number: int) -> None:
        super().__init__(evaluator.prior)
        self._evaluator, self._number = evaluator, number

    @property
    def resources(self) -> Resources:
        """Resources of the prior; a job that changes the precision asks by itself from then on."""
        return _SharedResources(self._evaluator)

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """Ask together with the other jobs; see `Prior.predict`. There is no condition."""
        return self._evaluator.ask(self._number, x, sigma)


class _SharedResources(WrapperResources):
    """Resources of a `_Shared` prior."""

    def __init__(self, evaluator: _Evaluator) -> None:
        super().__init__(evaluator.prior)
        self._evaluator = evaluator

    def full_precision(self) -> Prior | None:
        """Return the prior in float32, made once for all jobs."""
        return self._evaluator.in_precision("full")

    def low_precision(self) -> Prior | None:
        """Return the prior in half the memory, made once for all jobs."""
        return self._evaluator.in_precision("low")
