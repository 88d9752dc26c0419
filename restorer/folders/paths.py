"""Files and folders: what to read, where to write, what to do where something stands already."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from restorer.errors import OutputError, PictureError, RestorerError, UsageError
from restorer.images.find import STDIO, SUFFIXES, asked

__all__ = ["Item", "decide", "exit_code_of", "find_mask", "home_of"]

WRITTEN = frozenset([".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".avif"])


@dataclass(frozen=True)
class Item:
    """One picture to restore.

    Args:
        source: where it is read; STDIO for standard input.
        target: where the result goes; STDIO for standard output.
        root: the folder that was named, if the picture was found in one.
    """

    source: Path
    target: Path
    root: Path | None = None


def decide(
    pictures: list[tuple[Path, Path | None]],
    output: str | None,
    tag: str,
    *,
    overwrite: bool,
    skip_existing: bool,
    is_ours: Callable[[Path], bool] = lambda target: False,
    dry: bool = False,
) -> tuple[list[Item], list[Item], list[tuple[Item, RestorerError]]]:
    """Where each result goes, before anything is computed.

    Args:
        is_ours: whether a target that exists was made by an earlier run that is being gone on with.
        dry: make no folders.

    Returns:
        What is to be done, what is skipped because its result exists, and what cannot be done and why.

    Raises:
        UsageError: one output file for several pictures.
        OutputError: the output folder cannot be made.
    """
    pictures = [found for found in pictures if not _is_result(found, pictures, output, tag)]
    walked = any(root is not None for _, root in pictures)
    folder = output not in (None, "-") and (
        walked or str(output).endswith(("/", os.sep)) or asked(Path(str(output)).is_dir)
    )
    if output is not None and not folder and len(pictures) > 1:
        raise UsageError(
            f"{len(pictures)} pictures cannot go into one file", "name a folder: -o results/ (with the slash)"
        )
    if output is None and len(pictures) > 1 and any(source == STDIO for source, _ in pictures):
        raise UsageError("the picture from standard input has no place among several", "name a folder: -o results/")
    to_do, skipped, failed = [], [], []
    taken: set[Path] = set()
    sources = {source.resolve() for source, _ in pictures if source != STDIO}
    for source, root in pictures:
        item = Item(source, _target(source, root, output, tag, folder=folder), root)
        try:
            _check(item, taken, sources, overwrite=overwrite or skip_existing or is_ours(item.target))
            if skip_existing and item.target != STDIO and item.target.exists():
                skipped.append(item)
                continue
            if not dry:
                _make_room(item, folder=folder)
        except RestorerError as error:
            failed.append((item, error))
            continue
        taken.add(item.target)
        to_do.append(item)
    return to_do, skipped, failed


def _is_result(
    found: tuple[Path, Path | None], pictures: list[tuple[Path, Path | None]], output: str | None, tag: str
) -> bool:
    """Whether a picture found in a folder is what an earlier run made there."""
    source, root = found
    if root is None:
        return False
    if output is not None:
        place = Path(output).resolve()
        return place != root.resolve() and source.resolve().is_relative_to(place)
    original = source.stem.removesuffix(f"_{tag}")
    return original != source.stem and any(p.parent == source.parent and p.stem == original for p, _ in pictures)


def _target(source: Path, root: Path | None, output: str | None, tag: str, *, folder: bool) -> Path:
    if output is not None and not folder:
        return Path(output)
    if source == STDIO:
        return STDIO if output is None else Path(output) / f"picture_{tag}.png"
    suffix = source.suffix if source.suffix.lower() in WRITTEN else ".png"
    name = f"{source.stem}_{tag}{suffix}"
    if output is None:
        return source.with_name(name)
    return Path(output) / (source.relative_to(root).parent if root else Path()) / name


def _check(item: Item, taken: set[Path], sources: set[Path], *, overwrite: bool) -> None:
    target = item.target
    if target == STDIO:
        return
    try:
        exists = target.exists()
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror}", "name another file with -o") from error
    if item.source != STDIO and exists and item.source.exists() and target.samefile(item.source):
        raise OutputError(f"{target} is the input itself", "name another file with -o")
    if target.resolve() in sources:
        raise OutputError(f"{target} is another picture to be restored", "name a folder: -o results/")
    if target in taken:
        raise OutputError(f"two pictures would be written to {target}", "restore them into different folders")
    if target.is_dir():
        raise OutputError(f"{target} is a folder", f"end it with a slash: -o {target}/")
    if target.is_file() and not overwrite:
        raise OutputError(f"{target} exists", "add --overwrite, or --skip-existing, or name another file with -o")


def home_of(pictures: Sequence[tuple[Path, Path | None]], output: str | None) -> Path | None:
    """The folder that a run over a folder belongs to: where its results go, or the one folder it was given."""
    roots = {root for _, root in pictures if root is not None}
    if output is not None:
        place = Path(output)
        return place if output != "-" and (roots or output.endswith(("/", os.sep)) or asked(place.is_dir)) else None
    return roots.pop() if len(roots) == 1 and all(root is not None for _, root in pictures) else None


def _make_room(item: Item, *, folder: bool) -> None:
    """See that the target's folder is there and can be written to."""
    if item.target == STDIO:
        return
    parent = item.target.parent
    try:
        if folder:
            parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {parent} cannot be made: {error.strerror}", "name another with -o") from error
    if not parent.is_dir():
        raise OutputError(f"the folder {parent} does not exist", "make it, or name another with -o")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"the folder {parent} is not writable", "name another with -o")


def find_mask(mask: Path, item: Item) -> Path:
    """The mask of a picture: the file named, or in a folder the file of the same stem, or {stem}_mask.

    Raises:
        PictureError: there is none.
    """
    if not mask.is_dir():
        return mask
    place = mask / (item.source.relative_to(item.root).parent if item.root else Path())
    for stem in (item.source.stem, f"{item.source.stem}_mask"):
        for candidate in sorted(place.glob(f"{glob.escape(stem)}.*")):
            if candidate.stem == stem and candidate.suffix.lower() in SUFFIXES and candidate.is_file():
                return candidate
    raise PictureError(f"there is no mask for {item.source} in {mask}", f"name it {item.source.stem}.png")


def exit_code_of(codes: list[int], done: int) -> int:
    """0 if nothing failed, the common code if everything failed for one reason, else 3."""
    if not codes:
        return 0
    return codes[0] if done == 0 and len(set(codes)) == 1 else 3
