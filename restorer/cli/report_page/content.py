"""What the page shows: for each pair of pictures their figures, facts and records, and the pictures as data URLs.

All texts are plain. The page inserts them as text, never as HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from restorer.cli.commands.comparing_maps import MapOf
from restorer.cli.report_page.map_layer import map_layer
from restorer.cli.report_page.pictures import Embedded, browser_image, embed, embed_thumbnails
from restorer.cli.terminal.printable import printable
from restorer.evaluation.compare import Difference, figure_lines
from restorer.folders.provenance import parse_record
from restorer.folders.record_facts import record_facts
from restorer.images.picture import RECORD, Picture
from restorer.machine.memory import human_bytes

__all__ = ["PICTURE_BYTES", "Report", "display_names"]

PICTURE_BYTES = 50_000_000
"""Largest number of bytes of all pictures in a page, as data URLs."""

THUMBNAIL_SHARE = 4  # thumbnails take at most this part of the bytes of a pair
MAP_SHARE = 4  # and a map this part of the others
ROLES = ("A", "B", "Reference")


def display_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of files, with that of their folder where names alone would not tell the files apart."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.absolute().parent.name}/{path.name}" for path in paths]
    return [printable(name) for name in names]


class Report:
    """The content of a page, which is filled pair by pair.

    Args:
        title: The title of the page.
        pairs: The number of pairs among which the bytes are divided.
        is_gallery: Whether the page begins with an overview of thumbnails.
        max_bytes: The largest number of bytes of all pictures together.

    Attributes:
        pairs: The pairs, as JSON values.
        lines: The figures of all pairs in words, for browsers that do not run the scripts.
        summary: The lines under the title of the overview, for instance the mean figures.
        notes: What is said of the page as a whole.
    """

    def __init__(self, title: str, pairs: int = 1, *, is_gallery: bool = False, max_bytes: int = PICTURE_BYTES) -> None:
        self.title, self.is_gallery = printable(title), is_gallery
        self.pairs: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.summary: list[str] = []
        self.notes: list[str] = []
        self._pairs_left, self._bytes_left, self._max_bytes = max(pairs, 1), max_bytes, max_bytes

    def add(
        self,
        name: str,
        paths: Sequence[Path],
        pictures: Sequence[Picture],
        measured: tuple[Difference | None, Difference | None],
        map_of: MapOf | None = None,
    ) -> None:
        """Add a pair of pictures.

        Args:
            name: The name of the pair.
            paths: Pictures A and B, and the reference if there is one.
            pictures: What these files hold, in sizes that `restorer.evaluation.compare.match_sizes` accepts.
            measured: The result of `restorer.evaluation.compare.differences`.
            map_of: The map of the uncertainty of one of them; None if there is none.
        """
        budget = self._bytes_left // self._pairs_left
        images = [browser_image(picture) for picture in pictures]
        thumbnails = embed_thumbnails(images[:2], budget // THUMBNAIL_SHARE) if self.is_gallery else Embedded()
        layer = None if map_of is None else map_layer(map_of, (budget - thumbnails.size) // MAP_SHARE)
        taken = thumbnails.size + (0 if layer is None else layer.size)
        shown = embed(images, budget - taken)
        self._bytes_left -= taken + shown.size
        self._pairs_left = max(self._pairs_left - 1, 1)
        self.lines += map(printable, [*figure_lines(paths, measured), *([] if map_of is None else map_of.lines)])
        urls = shown.urls or [None] * len(paths)
        described = zip(ROLES, display_names(paths), paths, pictures, urls, strict=False)
        self.pairs.append(
            {
                "name": printable(name),
                "width": max(picture.width for picture in pictures),
                "height": max(picture.height for picture in pictures),
                "pictures": [
                    {"role": role, "name": shown_name, **_facts(path, picture), "url": url}
                    for role, shown_name, path, picture, url in described
                ],
                "thumbnails": list(thumbnails.urls),
                "figures": _figures(measured, "the reference" if len(paths) > 2 else "A"),
                "notes": [
                    *_notes(pictures, shown, self._max_bytes),
                    *([layer.note] if layer is not None and layer.note else []),
                ],
                "uncertainty": None if layer is None else layer.content,
            }
        )

    def skip(self, text: str) -> None:
        """Say on the page that a pair is left out, and leave its bytes to the others."""
        self.notes.append(printable(text))
        self._pairs_left = max(self._pairs_left - 1, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the content as JSON values."""
        return {
            "title": self.title,
            "isGallery": self.is_gallery,
            "summary": [printable(line) for line in self.summary],
            "notes": self.notes,
            "pairs": self.pairs,
        }


def _facts(path: Path, picture: Picture) -> dict[str, Any]:
    """Return what the file of a picture is, and its record."""
    kind = ("gray" if picture.channels == 1 else "colour") + (" with transparency" if picture.alpha is not None else "")
    values = "floating-point" if picture.pixels.dtype.kind == "f" else f"{picture.depth}-bit"
    facts = (
        f"{picture.width}x{picture.height} · {picture.format} · {values} {kind} · {human_bytes(path.stat().st_size)}"
    )
    record = parse_record(picture.text.get(RECORD, ""))
    described: dict[str, Any] | None = None
    if record is not None:
        rows = [[printable(text) for text in row] for row in record_facts(record)]
        described = {"rows": rows, "command": printable(record.command_line())}
    return {"facts": facts, "record": described}


def _figures(measured: tuple[Difference | None, Difference | None], against: str) -> list[dict[str, Any]]:
    """Return the figures of A and B as texts, rounded as `restore compare` prints them, and PSNR as a number."""
    figures = []
    for name, difference in zip("AB", measured, strict=True):
        if difference is None:
            continue
        is_finite = math.isfinite(difference.psnr)
        figures.append(
            {
                "of": name,
                "against": against,
                "short": str(difference),
                "psnr": f"{difference.psnr:.2f} dB" if is_finite else "equal",
                "value": difference.to_dict()["psnr"],
                "ssim": "" if difference.ssim is None else f"{difference.ssim:.4f}",
                "mean": f"{difference.mean:.2f}",
                "largest": f"{difference.largest:.0f}",
            }
        )
    return figures


def _notes(pictures: Sequence[Picture], shown: Embedded, max_bytes: int) -> list[str]:
    """Return what a reader must know about the pictures of a pair, in whole sentences."""
    notes = []
    limit = f"a page holds at most {max_bytes / 1e6:.0f} MB of pictures"
    if not shown.urls:
        notes.append(f"The pictures are left out, because {limit}.")
    elif not shown.is_exact:
        size = f" at 1/{shown.factor} of the size" if shown.factor > 1 else ""
        notes.append(
            f"The pictures are too large to be shown exactly ({limit}). "
            f"These are previews{size}, compressed with loss. "
            "The figures are those of the files, and the difference view is that of the previews."
        )
    if any(picture.depth > 8 for picture in pictures):
        notes.append("The page shows 8 bits per channel; the figures are computed from all bits.")
    if any(picture.alpha is not None for picture in pictures):
        notes.append("The figures do not take transparency into account.")
    if len({picture.pixels.shape[:2] for picture in pictures}) > 1:
        notes.append("The sizes differ: the smaller picture is enlarged by repeating its pixels.")
    return notes
