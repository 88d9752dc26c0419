"""Background threads that read the next pictures and write the last results while a batch is sampled.

The threads change only when things happen. A picture that is read ahead is merely kept in memory; a picture that cannot
be read ahead is read again when its turn comes, and fails then as it would have without the threads. The tasks of
`WriteBehind` run in order, and none runs after the first one that fails. There is one thread for each direction, and
neither starts before there is something to do in parallel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

__all__ = ["ReadAhead", "WriteBehind"]

T = TypeVar("T")
R = TypeVar("R")


class ReadAhead(Generic[T, R]):
    """An ordered reader of items that can read the next ones in a background thread.

    Args:
        items: The items to read, in order.
        read: Reads one item.
        may_prefetch: Returns whether an item may be read in the background.
        weigh: Returns the weight of a value that was read. Prefetching stops as soon as the waiting values together
            weigh 1 or more.
    """

    def __init__(
        self,
        items: Iterable[T],
        read: Callable[[T], R],
        may_prefetch: Callable[[T], bool],
        weigh: Callable[[R], float],
    ) -> None:
        self._read, self._may_prefetch, self._weigh = read, may_prefetch, weigh
        self._pending, self._ready = deque(items), deque[R]()  # only the thread touches them while it is prefetching
        self._prefetching: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="restorer-ahead")
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        self._pool.shutdown()

    @property
    def is_next_ready(self) -> bool:
        """Whether the next item has been read. If the thread is prefetching, the property waits for it."""
        self._wait_for_thread()
        return bool(self._ready)

    def take(self) -> R:
        """Return the next value, reading its item now unless it was prefetched.

        Raises:
            Exception: Any exception that `read` raises.
        """
        return self._ready.popleft() if self.is_next_ready else self._read(self._pending.popleft())

    def prefetch(self) -> None:
        """Let the thread read as many items as it may."""
        self._wait_for_thread()
        if self._pending:
            self._prefetching = self._pool.submit(self._prefetch)

    def _wait_for_thread(self) -> None:
        if self._prefetching is not None:
            self._prefetching.result()
            self._prefetching = None

    def _prefetch(self) -> None:
        while self._pending and not self._closed and sum(map(self._weigh, self._ready)) < 1:
            try:
                if not self._may_prefetch(self._pending[0]):
                    return
                self._ready.append(self._read(self._pending[0]))
            except Exception:  # `take` reads the item again and raises the error, unless memory has become free
                return
            self._pending.popleft()


class WriteBehind:
    """An ordered queue of tasks that run in a background thread.

    `wait` and leaving the context raise the exception of the first task that failed.

    Args:
        synchronous: Whether every task runs at once in the calling thread.
    """

    def __init__(self, *, synchronous: bool = False) -> None:
        self._synchronous = synchronous
        self._futures = deque[Future[None]]()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="restorer-behind")
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:  # after Ctrl-C the current task is completed and the waiting tasks are dropped
            self._pool.shutdown(cancel_futures=True)

    @property
    def is_idle(self) -> bool:
        """Whether all tasks are done."""
        return all(future.done() for future in self._futures)

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task in the thread, after all earlier tasks."""
        if self._synchronous:
            task()
            return
        self._futures.append(self._pool.submit(self._run, task))

    def run_or_submit(self, task: Callable[[], None]) -> None:
        """Run a task in the calling thread if all earlier tasks are done, else in the background thread."""
        if not self.is_idle:
            self.submit(task)
            return
        self.wait()
        task()

    def wait(self) -> None:
        """Wait until all tasks are done."""
        while self._futures:
            self._futures.popleft().result()

    def _run(self, task: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            task()
        except BaseException:
            self._failed = True
            raise
