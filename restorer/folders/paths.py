"""The files and folders of a run: where results go, and what happens if a file already exists there."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from restorer.errors import OutputError, PictureError, RestorerError, UsageError
from restorer.images.find import STDIO, SUFFIXES, safe_check

__all__ = ["Item", "combined_exit_code", "find_log_folder", "find_mask", "resolve_targets"]

WRITABLE_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".avif"]
)  # results of all other pictures are PNG files by default


@dataclass(frozen=True)
class Item:
    """One picture to restore.

    Args:
        source: The file to read; STDIO for standard input.
        target: The file to write; STDIO for standard output.
        root: The input folder in which the picture was found; None if the picture was named itself.
    """

    source: Path
    target: Path
    root: Path | None = None


def resolve_targets(
    pictures: list[tuple[Path, Path | None]],
    output: str | None,
    tag: str,
    *,
    overwrite: bool,
    skip_existing: bool,
    may_replace: Callable[[Path], bool] = lambda target: False,
    dry_run: bool = False,
) -> tuple[list[Item], list[Item], list[tuple[Item, RestorerError]]]:
    """Choose the target of every result, and create the missing output folders.

    Results that an earlier run has written into one of the input folders are not restored again.

    Args:
        pictures: The pictures and the input folders in which they were found, as `restorer.images.find.collect`
            returns them.
        output: A file, a folder, or "-" for standard output; None for a file beside each input.
        tag: The last part of a result's name, for instance "denoised".
        overwrite: Whether existing files are replaced.
        skip_existing: Whether pictures with an existing result are skipped.
        may_replace: Returns whether an existing target comes from the earlier run that this run continues.
        dry_run: Whether no folders are created.

    Returns:
        The pictures to restore, the pictures to skip because their result exists, and the pictures that cannot be
        restored, each with the reason.

    Raises:
        UsageError: Several pictures would be written to one file or to standard output.
    """
    pictures = [found for found in pictures if not _is_earlier_result(found, pictures, output, tag)]
    has_folder = any(root is not None for _, root in pictures)
    to_folder = output not in (None, "-") and (
        has_folder or str(output).endswith(("/", os.sep)) or safe_check(Path(str(output)).is_dir)
    )
    if output is not None and not to_folder and len(pictures) > 1:
        raise UsageError(
            f"{len(pictures)} pictures cannot be written to one file",
            "name a folder, with a slash at the end: -o results/",
        )
    if output is None and len(pictures) > 1 and any(source == STDIO for source, _ in pictures):
        raise UsageError(
            "standard input cannot be combined with other pictures unless there is an output folder",
            "name a folder: -o results/",
        )
    to_do, skipped, failed = [], [], []
    taken: set[Path] = set()
    sources = {source.resolve() for source, _ in pictures if source != STDIO}
    for source, root in pictures:
        item = Item(source, _target_path(source, root, output, tag, to_folder=to_folder), root)
        try:
            _check_target(item, taken, sources, overwrite=overwrite or skip_existing or may_replace(item.target))
            if skip_existing and item.target != STDIO and item.target.exists():
                skipped.append(item)
                continue
            if not dry_run:
                _prepare_folder(item, create=to_folder)
        except RestorerError as error:
            failed.append((item, error))
            continue
        taken.add(item.target)
        to_do.append(item)
    return to_do, skipped, failed


def _is_earlier_result(
    found: tuple[Path, Path | None], pictures: list[tuple[Path, Path | None]], output: str | None, tag: str
) -> bool:
    """Return whether a picture found in a folder is the result of an earlier run."""
    source, root = found
    if root is None:
        return False
    if output is not None:
        place = Path(output).resolve()
        return place != root.resolve() and source.resolve().is_relative_to(place)
    original = source.stem.removesuffix(f"_{tag}")
    return original != source.stem and any(p.parent == source.parent and p.stem == original for p, _ in pictures)


def _target_path(source: Path, root: Path | None, output: str | None, tag: str, *, to_folder: bool) -> Path:
    if output is not None and not to_folder:
        return Path(output)
    if source == STDIO:
        return STDIO if output is None else Path(output) / f"picture_{tag}.png"
    suffix = source.suffix if source.suffix.lower() in WRITABLE_SUFFIXES else ".png"
    name = f"{source.stem}_{tag}{suffix}"
    if output is None:
        return source.with_name(name)
    return Path(output) / (source.relative_to(root).parent if root else Path()) / name


def _check_target(item: Item, taken: set[Path], sources: set[Path], *, overwrite: bool) -> None:
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
        raise OutputError(f"{target} is also one of the inputs", "name a folder: -o results/")
    if target in taken:
        raise OutputError(f"two pictures would be written to {target}", "restore them into different folders")
    if target.is_dir():
        raise OutputError(f"{target} is a folder", f"add a slash to write into it: -o {target}/")
    if target.is_file() and not overwrite:
        raise OutputError(f"{target} exists", "add --overwrite or --skip-existing, or name another file with -o")


def find_log_folder(pictures: Sequence[tuple[Path, Path | None]], output: str | None) -> Path | None:
    """Return the folder that holds the log of a run.

    Args:
        pictures: The pictures and the input folders in which they were found.
        output: The output option, as in `resolve_targets`.

    Returns:
        The output folder; without an output, the input folder if there is exactly one and nothing else is restored;
        else None.
    """
    roots = {root for _, root in pictures if root is not None}
    if output is not None:
        place = Path(output)
        is_folder = roots or output.endswith(("/", os.sep)) or safe_check(place.is_dir)
        return place if output != "-" and is_folder else None
    return roots.pop() if len(roots) == 1 and all(root is not None for _, root in pictures) else None


def _prepare_folder(item: Item, *, create: bool) -> None:
    """Check that the folder of the target is writable, after creating it if `create` is set."""
    if item.target == STDIO:
        return
    parent = item.target.parent
    hint = "name another folder with -o"
    try:
        if create:
            parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {parent} cannot be created: {error.strerror}", hint) from error
    if not parent.is_dir():
        raise OutputError(f"the folder {parent} does not exist", f"create it, or {hint}")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"the folder {parent} is not writable", hint)


def find_mask(mask: Path, item: Item) -> Path:
    """Return the mask file of a picture.

    Args:
        mask: A mask file, which serves every picture, or a folder of masks. In a folder the mask has the stem of the
            picture, or that stem followed by "_mask", at the same place in the folder tree.
        item: The picture.

    Raises:
        PictureError: The folder has no mask for the picture.
    """
    if not mask.is_dir():
        return mask
    folder = mask / (item.source.relative_to(item.root).parent if item.root else Path())
    for stem in (item.source.stem, f"{item.source.stem}_mask"):
        for candidate in sorted(folder.glob(f"{glob.escape(stem)}.*")):
            if candidate.stem == stem and candidate.suffix.lower() in SUFFIXES and candidate.is_file():
                return candidate
    raise PictureError(f"there is no mask for {item.source} in {mask}", f"name the mask {item.source.stem}.png")


def combined_exit_code(codes: list[int], done: int) -> int:
    """Return the exit code of a run over several pictures.

    Args:
        codes: The exit codes of the pictures that failed.
        done: Number of pictures that did not fail.

    Returns:
        0 if nothing failed, the common code if everything failed with the same code, else 3.
    """
    if not codes:
        return 0
    return codes[0] if done == 0 and len(set(codes)) == 1 else 3
