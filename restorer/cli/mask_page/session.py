"""What the page and the program share: the mask, the wish to fill it, the progress, and whether the page is still open.

The threads of the server call most methods. The main thread waits in `next_request`, and fills.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from restorer.cli.mask_page.display import Shown
from restorer.errors import UsageError
from restorer.folders.paths import WRITABLE_SUFFIXES, Item
from restorer.images.find import is_stream
from restorer.images.mask_writing import save_mask
from restorer.images.picture import Picture
from restorer.images.writing import save

__all__ = ["FillRequest", "Progress", "Session", "Window"]

POLL_SECONDS = 0.25  # between two looks whether the page is still open
CLOSED_SECONDS = 60.0  # without a connection after which a page counts as closed: a line may break
GOODBYE_SECONDS = 3.0  # the same after the page has said goodbye: it may be loaded again

Window = tuple[int, int, int, int]
"""A part of the picture in pixels: left, top, width and height."""


@dataclass(frozen=True)
class FillRequest:
    """The wish to fill holes.

    Args:
        fill: bool (H, W), True at the pixels to fill.
        seed: The seed of the noise.
        run: Number of the request, from 1.
    """

    fill: np.ndarray
    seed: int
    run: int


@dataclass(frozen=True)
class Progress:
    """The state of a filling, as the page shows it.

    Args:
        run: Number of the request; 0 if there was none.
        state: "idle", "loading", "running", "done", "stopped" or "failed".
        done: Evaluations of the whole picture so far; fractions count tiles.
        total: Evaluations in all.
        seed: The seed of the noise.
        message: What went wrong, or ''.
        preview: Number of the latest preview, from 1; 0 if there is none.
        window: The part of the picture that the preview shows; None if there is none.
    """

    run: int = 0
    state: str = "idle"
    done: float = 0.0
    total: int = 0
    seed: int = 0
    message: str = ""
    preview: int = 0
    window: Window | None = None


class Session:
    """One picture and its mask, while the page is open.

    Args:
        picture: The picture.
        item: The file of the picture, and that of the mask.
        fill: The mask to begin with, bool (H, W).
        replaces: Whether a file that exists under the name of the mask or of the result may be replaced.
        seed: The seed of the first filling.
    """

    def __init__(self, picture: Picture, item: Item, fill: np.ndarray, *, replaces: bool, seed: int = 0) -> None:
        self.picture, self.item, self.fill = picture, item, fill
        self.seed = seed
        self.is_saved = False
        self.saved_result: Path | None = None
        self.preview: Shown | None = None
        self.replaces = replaces
        self._result: tuple[Picture, np.ndarray] | None = None
        self._progress, self._revision = Progress(), 0
        self._request: FillRequest | None = None
        self._requests = 0
        self._is_stopping = self._is_done = self._said_goodbye = False
        self._bug: BaseException | None = None
        self._streams = 0
        self._last_seen: float | None = None
        self._changed = threading.Condition()
        self._saving = threading.Lock()

    # ------------------------------------------------------------------------------------------------ the page itself

    def enter(self) -> None:
        """Count one more connection that stays open as long as the page does."""
        with self._changed:
            self._streams += 1
            self._said_goodbye = False

    def leave(self) -> None:
        """Count one connection less."""
        with self._changed:
            self._streams -= 1
            self._last_seen = time.monotonic()
            self._changed.notify_all()

    def say_goodbye(self) -> None:
        """Note that the page is being closed, or loaded again."""
        with self._changed:
            self._said_goodbye = True

    def finish(self) -> None:
        """End the session: the user is done."""
        with self._changed:
            self._is_done = True
            self._changed.notify_all()

    def crash(self, bug: BaseException) -> None:
        """End the session with an exception that `next_request` raises."""
        with self._changed:
            self._bug = bug
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether the user is done, or the page was open and is closed."""
        if self._is_done or self._bug is not None:
            return True
        if self._streams or self._last_seen is None:
            return False
        return time.monotonic() - self._last_seen > (GOODBYE_SECONDS if self._said_goodbye else CLOSED_SECONDS)

    # ------------------------------------------------------------------------------------------------------- the mask

    def save_mask(self, fill: np.ndarray) -> None:
        """Write the mask. A mask that this session has written is replaced.

        Raises:
            OutputError: The file exists and may not be replaced, or cannot be written.
        """
        with self._saving:
            save_mask(fill, self.item.target, overwrite=self.replaces or self.is_saved)
            self.fill, self.is_saved = fill, True

    # -------------------------------------------------------------------------------------------------------- filling

    def request_fill(self, fill: np.ndarray, seed: int) -> int:
        """Ask the main thread to fill, and return the number of the request. A filling in progress is stopped.

        Args:
            fill: bool (H, W), True at the pixels to fill.
            seed: The seed of the noise.
        """
        with self._changed:
            self._requests += 1
            self._request, self._is_stopping = FillRequest(fill, seed, self._requests), True
            self._changed.notify_all()
            return self._requests

    def stop_fill(self) -> None:
        """Stop the filling in progress, if there is one."""
        with self._changed:
            self._request, self._is_stopping = None, True

    def next_request(self) -> FillRequest | None:
        """Wait for the next wish to fill, and return it; None if the session is over.

        Raises:
            BaseException: The exception that `crash` was given.
        """
        with self._changed:
            while self._request is None and not self.is_over:
                self._changed.wait(POLL_SECONDS)
            if self._bug is not None:
                raise self._bug
            if self.is_over:
                return None
            request, self._request, self._is_stopping = self._request, None, False
            return request

    @property
    def is_stopping(self) -> bool:
        """Whether the filling in progress should stop."""
        return self._is_stopping or self.is_over

    def show(self, progress: Progress, preview: Shown | None = None) -> None:
        """Show the page how far a filling is.

        Args:
            progress: The progress; the number of its preview is that of the latest one.
            preview: A new preview of the part that the progress names; None for no new one.
        """
        with self._changed:
            number = self._progress.preview
            if preview is not None:
                self.preview, number = preview, number + 1
            self._progress = replace(progress, preview=number)
            self._revision += 1
            self._changed.notify_all()

    def wait_for_progress(self, revision: int, seconds: float) -> tuple[int, Progress]:
        """Wait until there is news, and return its number and the progress.

        Args:
            revision: The number of the last news, or -1.
            seconds: How long to wait at most.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._revision != revision or self.is_over, seconds)
            return self._revision, self._progress

    # ----------------------------------------------------------------------------------------------------- the result

    @property
    def result_target(self) -> Path:
        """The file of the result."""
        source = self.item.source
        if is_stream(source):
            return self.item.target.with_name("picture_inpainted.png")
        suffix = source.suffix if source.suffix.lower() in WRITABLE_SUFFIXES else ".png"
        return source.with_name(f"{source.stem}_inpainted{suffix}")

    def keep_result(self, result: Picture, fill: np.ndarray) -> None:
        """Keep a result, so that it can be saved.

        Args:
            result: The filled picture with its record.
            fill: Its mask.
        """
        with self._saving:
            self._result = result, fill

    def save_result(self, *, overwrite: bool) -> None:
        """Write the latest result, and its mask, which the record of the result names.

        Args:
            overwrite: Whether an existing file is replaced.

        Raises:
            UsageError: There is no result.
            OutputError: A file exists and may not be replaced, or cannot be written.
        """
        with self._saving:
            kept, target = self._result, self.result_target
            if kept is None:
                raise UsageError("there is no result yet", "fill the holes first")
            save(kept[0], target, overwrite=overwrite or self.replaces or self.saved_result is not None)
            self.saved_result = target
        self.save_mask(kept[1])
