"""Several small restorations at once: each runs its own reverse process, and their networks' evaluations share a batch.

Small pictures leave a processor idle: eight of 64 pixels together take a CPU 4.8 times as long as one, not eight times.
Every job runs in a thread of its own, with its own levels and noise, and knows nothing of the others. When all that
still run have asked the network something, the questions of one shape are answered by one evaluation, in the thread
that called. So what shares a batch follows from the jobs alone, never from which thread was faster.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from restorer.diffusion.prior import Around, Prediction, Prior, per_item
from restorer.machine.memory import available
from restorer.priors.tiled import Tiled
from restorer.tasks.job import Job, Restored, is_out_of_memory

__all__ = ["MOST", "run_together", "share"]

MOST = 16  # pictures in a batch
SMALL = {"cpu": 65_536, "cuda": 1_048_576}  # pixels of a batch; with more of them it gains nothing on such a device


def share(job: Job) -> float:
    """The share of a batch that a job takes; 1 where it had better run alone.

    Of a large picture with a small hole the network sees little, but the whole of it would have to wait in memory.
    """
    if job.plan is None or job.latent is not None or job.tiles > 1:
        return 1.0
    pixels = max(x.shape[-2] * x.shape[-1] for x in (job.start, job.image))
    return max(1 / MOST, min(1.0, pixels / SMALL.get(job.prior.device.type, 1)))


def run_together(jobs: Sequence[Job], on_round: Callable[[int], None] | None = None) -> list[Restored | BaseException]:
    """Do them all.

    Args:
        jobs: of one prior, which is neither tiled itself nor latent.
        on_round: called with the number of evaluations that every job still at work has had.

    Returns:
        For each job what `Job.run` returns, or what it raised.
    """
    desk = _Desk(jobs[0].prior.prior, len(jobs))
    with ThreadPoolExecutor(len(jobs), thread_name_prefix="restorer") as pool:
        try:
            futures = [pool.submit(_run, job, number, desk) for number, job in enumerate(jobs)]
            desk.serve(on_round)
        finally:
            desk.close()
    return [_result(future, job) for future, job in zip(futures, jobs, strict=True)]


def _run(job: Job, number: int, desk: _Desk) -> Restored:
    asked = job.prior
    try:
        own = Tiled(_Member(desk, number), asked.tile, overlap=asked.overlap, batch=asked.batch)
        restored = replace(job, prior=own).run()
    finally:
        desk.leave()
    used = restored.prior
    inner = (
        used.prior.prior if isinstance(used.prior, (_Alone, _Member)) else used.prior
    )  # the real one knows its precision
    return replace(restored, prior=Tiled(inner, used.tile, overlap=used.overlap, batch=used.batch))


def _result(future: Future[Restored], job: Job) -> Restored | BaseException:
    error = future.exception()
    return future.result() if error is None else error


class _GivenUp(Exception):
    """The thread that called has ended, as after Ctrl-C; nobody is told."""


@dataclass(eq=False)
class _Question:
    """What one job asks; exactly one of `answer` and `error` is there in the end."""

    number: int
    x: Tensor
    sigma: Tensor
    answer: Prediction | None = None
    error: BaseException | None = None

    @property
    def settled(self) -> bool:
        return self.answer is not None or self.error is not None


class _Desk:
    """Where the threads ask, and the one that called answers."""

    def __init__(self, prior: Prior, count: int) -> None:
        self.prior, self.running = prior, count
        room = available(prior.device)
        self._room = None if room is None else room - prior.kept_bytes()
        self._others: dict[str, Prior | None] = {}
        self._alone = threading.Lock()
        self._waiting: list[_Question] = []
        self._closed = False
        self._changed = threading.Condition()

    def ask(self, number: int, x: Tensor, sigma: float | Tensor) -> Prediction:
        """In a job's thread: the answer, once all others have asked as well."""
        question = _Question(number, x, per_item(sigma, x))
        with self._changed:
            if not self._closed:
                self._waiting.append(question)
                self._changed.notify_all()
                self._changed.wait_for(lambda: question.settled or self._closed)
        if question.error is not None:
            raise question.error
        if question.answer is None:
            raise _GivenUp
        return question.answer

    def other(self, precision: str) -> Prior | None:
        """In a job's thread: the prior in "full" or "low" precision, made once for all who want it."""
        with self._alone:
            if precision not in self._others:
                prior = self.prior
                made = prior.full_precision() if precision == "full" else prior.low_precision()
                self._others[precision] = None if made is None else _Alone(self, made)
            return self._others[precision]

    def ask_alone(self, prior: Prior, x: Tensor, sigma: float | Tensor) -> Prediction:
        """In a job's thread: what another prior says, to one after the other."""
        with self._alone:
            if self._closed:
                raise _GivenUp
            return prior.predict(x, sigma)

    def leave(self) -> None:
        """In a job's thread: it has no more questions."""
        with self._changed:
            self.running -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """No one will answer any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def serve(self, on_round: Callable[[int], None] | None) -> None:
        """Answer until all have left."""
        rounds = 0
        while True:
            with self._changed:
                # with a timeout, without which Ctrl-C is not heard on every system
                while len(self._waiting) < self.running:
                    self._changed.wait(0.2)
                questions, self._waiting = sorted(self._waiting, key=lambda q: q.number), []
            if not questions:
                return
            for shape in dict.fromkeys(q.x.shape for q in questions):
                alike = [q for q in questions if q.x.shape == shape]
                most = self._most(shape)
                for first in range(0, len(alike), most):
                    self._answer(alike[first : first + most])
            with self._changed:
                self._changed.notify_all()
            rounds += 1
            if on_round is not None:
                on_round(rounds)

    def _most(self, shape: torch.Size) -> int:
        """Questions of a shape that one evaluation may answer, by the memory there is."""
        each = self.prior.evaluation_bytes(shape[-2] * shape[-1])
        return MOST if not each or self._room is None else max(1, self._room // each)

    def _answer(self, questions: list[_Question]) -> None:
        """One evaluation; by halves where there is no memory for it."""
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
        """The answer, or what stood against it, without the frames that hold on to memory."""
        try:
            x, sigma = torch.cat([q.x for q in questions]), torch.cat([q.sigma for q in questions])
            return self.prior.predict(x, sigma), Exception()
        except Exception as error:
            return None, error.with_traceback(None) if is_out_of_memory(error) else error


class _Alone(Around):
    """A prior in another precision, which jobs ask one after the other and not together."""

    def __init__(self, desk: _Desk, prior: Prior) -> None:
        super().__init__(prior)
        self._desk = desk

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """See `Prior.predict`; there is no condition."""
        return self._desk.ask_alone(self.prior, x, sigma)


class _Member(Around):
    """The prior as one job sees it."""

    def __init__(self, desk: _Desk, number: int) -> None:
        super().__init__(desk.prior)
        self._desk, self._number = desk, number

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        """See `Prior.predict`; there is no condition."""
        return self._desk.ask(self._number, x, sigma)

    def full_precision(self) -> Prior | None:
        """See `Prior.full_precision`: from then on this job asks by itself."""
        return self._desk.other("full")

    def low_precision(self) -> Prior | None:
        """See `Prior.low_precision`: from then on this job asks by itself."""
        return self._desk.other("low")
