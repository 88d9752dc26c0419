"""What can go on in threads while a batch is sampled: the next pictures are read, the last results are written.

Threads change when things happen, and nothing else. What is read ahead is only held; what cannot be read ahead is read
again when its turn comes, and fails then as it would have. What is done behind is done in order, and after the first
thing that fails nothing is. There is one thread for either, and none before there is something to do beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

__all__ = ["Ahead", "Behind"]

T = TypeVar("T")
R = TypeVar("R")


class Ahead(Generic[T, R]):
    """Reads things in order: when they are taken, or before that in a thread.

    Args:
        things: to be read.
        read: reads one.
        may: whether one may be read before it is its turn.
        weigh: what something that was read weighs; no more is read ahead than weighs 1 together, the last one included.
    """

    def __init__(
        self, things: Iterable[T], read: Callable[[T], R], may: Callable[[T], bool], weigh: Callable[[R], float]
    ) -> None:
        self._read, self._may, self._weigh = read, may, weigh
        self._left, self._ready = deque(things), deque[R]()  # the thread's own while it is reading
        self._reading: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="restorer-ahead")
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        self._pool.shutdown()

    @property
    def is_ready(self) -> bool:
        """Whether the next thing has been read; where the thread is reading, it ends that first."""
        self._settle()
        return bool(self._ready)

    def take(self) -> R:
        """The next thing, read by now; raises what `read` raises."""
        return self._ready.popleft() if self.is_ready else self._read(self._left.popleft())

    def fill(self) -> None:
        """Have the thread read as much as may be, and is worth having."""
        self._settle()
        if self._left:
            self._reading = self._pool.submit(self._fill)

    def _settle(self) -> None:
        """From here on the thread is not reading."""
        if self._reading is not None:
            self._reading.result()
            self._reading = None

    def _fill(self) -> None:
        while self._left and not self._closed and sum(map(self._weigh, self._ready)) < 1:
            try:
                if not self._may(self._left[0]):
                    return
                self._ready.append(self._read(self._left[0]))
            except Exception:  # which is told in its turn, unless that was a lack of memory that is over by then
                return
            self._left.popleft()


class Behind:
    """Does things in order; `wait`, and leaving the context, raise what the first one that failed has raised.

    Args:
        at_once: no thread: there is nothing to be done beside them.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._under_way = deque[Future[None]]()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="restorer-behind")
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:  # after Ctrl-C what is being done is ended, and what waits is dropped
            self._pool.shutdown(cancel_futures=True)

    @property
    def is_idle(self) -> bool:
        """Whether all is done."""
        return all(future.done() for future in self._under_way)

    def do(self, task: Callable[[], None]) -> None:
        """In the thread, after all else."""
        if self._at_once:
            task()
            return
        self._under_way.append(self._pool.submit(self._run, task))

    def then(self, task: Callable[[], None]) -> None:
        """After all else, which is now if all else is done, and otherwise in the thread."""
        if not self.is_idle:
            self.do(task)
            return
        self.wait()
        task()

    def wait(self) -> None:
        """Until all is done."""
        while self._under_way:
            self._under_way.popleft().result()

    def _run(self, task: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            task()
        except BaseException:
            self._failed = True
            raise
