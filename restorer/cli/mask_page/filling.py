"""Filling while the page is open: the model is loaded once, and each step is shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from restorer.cli.mask_page.display import PICTURE_PIXELS, PREVIEW_PIXELS, Shown, encode
from restorer.cli.mask_page.session import FillRequest, Progress, Session, Window
from restorer.cli.terminal.downloads import ensure_downloaded
from restorer.cli.terminal.reporter import Reporter
from restorer.diffusion.reverse import Step
from restorer.errors import RestorerError
from restorer.folders.opening import load_requested_prior
from restorer.folders.paths import Item
from restorer.folders.picture import Kept, PreparedPicture, build_record
from restorer.folders.verb_options import Inpaint
from restorer.images.files import to_tensor, with_record, with_result
from restorer.images.picture import Picture
from restorer.priors.tiled import Tiled
from restorer.priors.unet_prior import UNetPrior
from restorer.tasks.consistency import consistency_of
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job

__all__ = ["Filler"]

PREVIEW_SECONDS = 0.2  # between two previews at least


class _StoppedError(Exception):
    """The filling is to stop. Nobody sees this error."""


class Filler:
    """Fills what the page asks for, in the thread that calls it.

    Args:
        session: What is to be filled; it is shown the progress, and keeps the result.
        options: The options of the run.
        reporter: Receives the messages.
    """

    def __init__(self, session: Session, options: Inpaint, reporter: Reporter) -> None:
        self.session, self.options, self.reporter = session, options, reporter

    @cached_property
    def prior(self) -> UNetPrior | Tiled:
        """The model, loaded when it is first needed."""
        ensure_downloaded(self.options.model, self.reporter, self.options.command)
        with self.reporter.working("loading PyTorch and the model"):
            return load_requested_prior(self.options)

    @cached_property
    def image(self) -> Tensor:
        """The picture, float32 (C, H, W) in [0, 1]."""
        return to_tensor(self.session.picture)

    def run(self, request: FillRequest) -> None:
        """Fill, and show the outcome; a failure is shown and does not end the session."""
        session = self.session
        progress = Progress(request.run, "loading", seed=request.seed)
        session.show(progress)
        try:
            self._run(request)
        except _StoppedError:
            session.show(replace(progress, state="stopped"))
        except RestorerError as error:
            self.reporter.fail(error)
            text = f"{error}: {error.hint}" if error.hint else str(error)
            session.show(replace(progress, state="failed", message=text))

    def _run(self, request: FillRequest) -> None:
        session, fill = self.session, request.fill
        window = _window(fill)
        options = replace(self.options, seed=request.seed)
        hole = torch.from_numpy(fill)
        shown = _Shown(session, request, window)
        job = shown.watched(prepare_inpaint(self.image, hole, prior=self.prior, **options.sampling))
        if session.is_stopping:
            raise _StoppedError
        shown.begin(job)
        start = time.monotonic()
        restored = job.run(shown.step, shown.tile)
        for note in restored.notes:
            self.reporter.warn(note)
        result = with_result(session.picture, restored.image, ~fill)
        record = build_record(self._prepared(job, fill, options), options, restored.prior, batch=1)
        record = replace(record, consistency=consistency_of(job, restored.image).describe())
        session.keep_result(with_record(result, record.to_json()), fill)
        shown.end(result)
        self.reporter.say(f"filled {int(fill.sum())} pixels in {time.monotonic() - start:.1f} s, seed {request.seed}")

    def _prepared(self, job: Job, fill: np.ndarray, options: Inpaint) -> PreparedPicture:
        """Return what the record of the result is made of."""
        session = self.session
        item = Item(session.item.source, session.result_target)
        return PreparedPicture(item, session.picture, job, Kept(~fill), item.target, "", options.own, "", 0.0, 1.0)


class _Shown:
    """Shows a page the steps of one filling."""

    def __init__(self, session: Session, request: FillRequest, window: Window) -> None:
        self.session, self.window = session, window
        left, top, width, height = window
        self.part = slice(top, top + height), slice(left, left + width)
        self.fill = request.fill[self.part]
        self.progress = Progress(request.run, "running", seed=request.seed, window=window)
        self.finish: Callable[[Tensor, Tensor], Tensor] | None = None
        self.last_shown = 0.0

    def watched(self, job: Job) -> Job:
        """Return the same job, whose states can be shown, also those of its second pass."""
        self.finish = job.finish
        second_pass = job.second_pass
        if second_pass is None:
            return job

        def watched_pass(image: Tensor, prior: Tiled) -> Job:
            return self.watched(replace(second_pass(image, prior), notes=()))  # which tell of a part of the mask

        return replace(job, second_pass=watched_pass)

    def begin(self, job: Job) -> None:
        """Show that the steps begin."""
        self.progress = replace(self.progress, total=job.evaluations)
        self.session.show(self.progress)

    def tile(self, done: int, total: int) -> None:
        """Show a tile, which is a part of a step."""
        if self.session.is_stopping:
            raise _StoppedError
        if done < total:
            self.session.show(replace(self.progress, done=self.progress.done + done / total))

    def step(self, step: Step) -> None:
        """Show a step, with a preview unless the last one was shown just now."""
        if self.session.is_stopping:
            raise _StoppedError
        self.progress, preview = replace(self.progress, done=float(step.index)), None
        if time.monotonic() - self.last_shown >= PREVIEW_SECONDS and self.finish is not None:
            image = self.finish(step.corrected[:1].float().cpu(), step.x0[:1].float().cpu())
            preview = self._encoded(image[:, *self.part], PREVIEW_PIXELS)
            self.last_shown = time.monotonic()
        self.session.show(self.progress, preview)

    def end(self, result: Picture) -> None:
        """Show the result."""
        preview = encode(_cropped(result, self.part), PICTURE_PIXELS)
        self.session.show(replace(self.progress, state="done", done=float(self.progress.total)), preview)

    def _encoded(self, image: Tensor, max_pixels: int) -> Shown:
        """Encode the state of the part of the picture that is shown, (C, H, W) in [0, 1]."""
        before = _cropped(self.session.picture, self.part)
        return encode(with_result(before, image, ~self.fill), max_pixels)


def _cropped(picture: Picture, part: tuple[slice, slice]) -> Picture:
    """Return a part of a picture."""
    alpha = None if picture.alpha is None else picture.alpha[part]
    return replace(picture, pixels=picture.pixels[part], alpha=alpha, original=None)


def _window(fill: np.ndarray) -> Window:
    """Return the smallest rectangle that holds all holes."""
    rows, columns = (np.flatnonzero(fill.any(axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top
