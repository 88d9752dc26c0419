"""The maps of `restore compare --uncertainty`: which result each of them speaks of, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restorer.cli.terminal.printable import printable
from restorer.errors import PictureError, UsageError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from restorer.evaluation.map_figures import MapFigures
    from restorer.images.files import Picture

__all__ = ["MapOf", "check_map_path", "find_map_of", "line_of_maps", "mean_of_maps", "read_map_of"]

PLACES = "ab"


@dataclass(frozen=True)
class MapOf:
    """A map and the result of which it speaks.

    Args:
        path: The file of the map.
        number: The number of the result among the pictures that are compared: 0 for A, 1 for B.
        truth: The name of the truth; empty if none was named.
        figures: What the map says.
        note: What the user should know; empty if there is nothing to say.
    """

    path: Path
    number: int
    truth: str
    figures: MapFigures
    note: str = ""

    @property
    def lines(self) -> list[str]:
        """What the map says, in words."""
        return self.figures.lines(self.path.name, self.truth)

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON output holds."""
        return {"path": str(self.path), "of": PLACES[self.number], **self.figures.to_dict(), "note": self.note or None}

    def draw(self, pictures: Sequence[Tensor]) -> Image.Image:
        """Draw the map over its result; `pictures` are those that are compared, (3, H, W) in [0, 1]."""
        from restorer.evaluation.map_overlay import overlay_image

        return overlay_image(pictures[self.number], self.figures.certainty.half, self.figures.bands)


def check_map_path(path: Path, *, for_folders: bool) -> None:
    """Check that a map is named for pictures, and a folder of maps for folders.

    Raises:
        PictureError: There is no such file or folder.
        UsageError: It is the other of the two.
    """
    if not path.exists():
        raise PictureError(f"{path} does not exist", "check the path")
    if path.is_dir() != for_folders:
        hint = "name the folder that --uncertainty has filled" if for_folders else "name the map of the result"
        raise UsageError(f"{path} is {'a file' if for_folders else 'a folder'}", hint)


def read_map_of(path: Path, paths: Sequence[Path], files: Sequence[Picture], pictures: Sequence[Tensor]) -> MapOf:
    """Read a map, and find the result of which it speaks.

    Args:
        path: The file of the map.
        paths: Pictures A and B, and the reference if there is one, which is the truth.
        files: What these files hold.
        pictures: The same as tensors, (3, H, W) in [0, 1].

    Raises:
        PictureError: The file is not a map.
        UsageError: Neither A nor B has the size of the map.
    """
    from restorer.evaluation.map_figures import load_map, map_figures, owner_of

    found = load_map(path)
    number, note = owner_of(found, files[:2], [picture.name for picture in paths[:2]])
    truth = pictures[2] if len(pictures) > 2 else None
    figures = map_figures(found, pictures[number], truth)
    return MapOf(path, number, paths[2].name if figures.judged is not None else "", figures, note)


def find_map_of(
    folder: Path, a: Path, b: Path, paths: Sequence[Path], files: Sequence[Picture], pictures: Sequence[Tensor]
) -> MapOf | None:
    """Find and read the map of a pair of pictures of two folders; return None if there is none.

    Args:
        folder: The folder of the maps.
        a: The first folder of pictures.
        b: The second folder of pictures.
        paths: As in `read_map_of`.
        files: As in `read_map_of`.
        pictures: As in `read_map_of`.

    Raises:
        PictureError: The file is not a map.
        UsageError: Neither A nor B has the size of the map.
    """
    from restorer.evaluation.map_figures import find_map

    path = find_map(folder, paths[0].relative_to(a).parent, [paths[1].stem, paths[0].stem])
    return None if path is None else read_map_of(path, paths, files, pictures)


def mean_of_maps(figures: Sequence[MapFigures]) -> dict[str, Any]:
    """Return the means over all maps as JSON values; None where no map has such a figure."""
    told = [f.certainty.to_dict() for f in figures]
    judged = [f.judged.to_dict() for f in figures if f.judged is not None]
    means: dict[str, Any] = {"maps": len(figures), "judged": len(judged)}
    for name, rows in (("within", told), ("mean", told), ("coverage", judged), ("rank_correlation", judged)):
        values = [row[name] for row in rows if row[name] is not None]
        means[name] = round(sum(values) / len(values), 4) if values else None
    return means


def line_of_maps(figures: Sequence[MapFigures], pairs: int) -> str:
    """Return the means over all maps in words.

    Args:
        figures: What the maps say.
        pairs: Number of pairs that were compared.
    """
    means = mean_of_maps(figures)
    text = f"uncertainty: {len(figures)} of {pairs} {'pair has' if pairs == 1 else 'pairs have'} a map"
    if means["mean"] is not None:
        text += f", ± {means['mean']:.1f} levels on average"
    if means["coverage"] is not None:
        text += f"; {100 * means['coverage']:.1f} % of the values lie within their intervals"
    if means["rank_correlation"] is not None:
        text += f"; rank correlation {means['rank_correlation']:.2f}"
    return printable(text)
