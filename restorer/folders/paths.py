"""The files and folders of a run: where results go, and what happens if a file already exists there."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from restorer.errors import OutputError, PictureError, RestorerError, UsageError
from restorer.folders.names import Named, choose_names, reserved_reason
from restorer.images.find import STDIO, content_suffix, is_descriptor, is_loop, is_stream, picture_suffixes, safe_check
from restorer.images.streams import ClosedStream
from restorer.limits import FORMAT_OF_SUFFIX

__all__ = ["Found", "Item", "combined_exit_code", "find_log_folder", "find_mask", "resolve_targets", "split_results"]

Found = tuple[Path, Path | None]
"""A picture, and the input folder in which it was found, or None if it was named itself."""

WRITABLE_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".avif"]
)  # results of all other pictures are PNG files by default, except those of
OTHER_SUFFIXES = {".mpo": ".jpg", ".jif": ".jpg", ".avifs": ".avif"}
_SAMPLE = re.compile(r"_(sample[1-9]\d*|mean)$")  # what `restorer.folders.extras` appends to the name of a result


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
    pictures: list[Found],
    output: str | None,
    tag: str,
    *,
    overwrite: bool,
    skip_existing: bool,
    may_replace: Callable[[Path], bool] = lambda target: False,
    dry_run: bool = False,
    suffix: str = "",
    siblings: Sequence[Found] = (),
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
        suffix: The suffix of every result, for instance ".png"; "" for that of its input.
        siblings: Pictures that lie beside these and are not restored. The names of the results are chosen as if they
            were, so that they do not depend on which pictures of a folder are wanted.

    Returns:
        The pictures to restore, the pictures to skip because their result exists, and the pictures that cannot be
        restored, each with the reason.

    Raises:
        UsageError: Several pictures would be written to one file or to standard output.
    """
    pictures, _ = split_results(pictures, output, tag, suffix)
    to_folder = _is_folder(pictures, output)
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
    targets = _choose_targets(pictures, output, tag, suffix, siblings, to_folder=to_folder)
    for (source, root), target in zip(pictures, targets, strict=True):
        item = Item(source, target, root)
        try:
            if output is None and is_descriptor(source):
                hint = "name a file with -o, or - for standard output"
                raise UsageError(f"the result of {source} needs a name", hint)
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


def _is_folder(pictures: Sequence[Found], output: str | None) -> bool:
    """Return whether the output option names a folder for the results."""
    if output is None or output == "-":
        return False
    has_roots = any(root is not None for _, root in pictures)
    return has_roots or output.endswith(("/", os.sep)) or safe_check(Path(output).is_dir)


def split_results(
    pictures: Sequence[Found], output: str | None, tag: str, suffix: str = ""
) -> tuple[list[Found], list[Path]]:
    """Return the pictures to restore, and those in folders that are the results of an earlier run.

    The further samples of a result, the mean of the samples and the map of its uncertainty count as results too. A map
    may lie in another folder than the result, so that it is known by its name alone.

    Args:
        pictures: As in `resolve_targets`.
        output: As in `resolve_targets`.
        tag: As in `resolve_targets`.
        suffix: As in `resolve_targets`.
    """
    ending = f"_{tag}"
    found = [each for each in pictures if each[1] is None or not each[0].stem.endswith(f"{ending}_uncertainty")]
    kept = _without_results(found, output, tag, suffix)
    sources = {source for source, _ in kept}
    return kept, [source for source, _ in pictures if source not in sources]


def _without_results(pictures: list[Found], output: str | None, tag: str, suffix: str) -> list[Found]:
    """Return the pictures that are not results of an earlier run, or samples beside them; see `split_results`."""
    if output is not None:
        if is_loop(Path(output)):
            raise OutputError(f"{output} is a link that leads back to itself", "name another file with -o")
        place = Path(output).resolve()
        roots = {root: root.resolve() for _, root in pictures if root is not None}
        is_beside = any(place == root for root in roots.values())
        if not is_beside:
            inside = [root is not None and source.resolve().is_relative_to(place) for source, root in pictures]
            return [found for found, is_result in zip(pictures, inside, strict=True) if not is_result]
    stems, ending = {(source.parent, source.stem) for source, _ in pictures}, f"_{tag}"

    def is_result(source: Path) -> bool:
        stem = _SAMPLE.sub("", source.stem)
        return stem.endswith(ending) and (source.parent, stem.removesuffix(ending)) in stems

    originals = [found for found in pictures if found[1] is None or not is_result(found[0])]
    targets = set(_choose_targets(originals, None, tag, suffix, (), to_folder=False))
    return [found for found in originals if found[1] is None or _result_of(found[0]) not in targets]


def _result_of(source: Path) -> Path:
    """Return the path of the result of which a picture is a further sample or the mean; otherwise its own path."""
    return source.with_name(_SAMPLE.sub("", source.stem) + source.suffix) if source.name else source


def _choose_targets(
    pictures: Sequence[Found],
    output: str | None,
    tag: str,
    suffix: str,
    siblings: Sequence[Found],
    *,
    to_folder: bool,
) -> list[Path]:
    """Return the path of each result."""
    if output is not None and not to_folder:
        return [Path(output)] * len(pictures)
    named = [_plain_name(source, root, output, tag, suffix) for source, root in (*pictures, *siblings)]
    paths = choose_names(named)[: len(pictures)]
    return [STDIO if s == STDIO and output is None else p for (s, _), p in zip(pictures, paths, strict=True)]


def _result_suffix(source: Path) -> str:
    """Return the suffix of the result of a picture: that of its name, unless its content is of another format."""
    suffix = source.suffix
    if suffix.lower() in FORMAT_OF_SUFFIX and not is_stream(source):
        content = content_suffix(source)
        if content and content != FORMAT_OF_SUFFIX[suffix.lower()]:
            suffix = content
    return suffix if suffix.lower() in WRITABLE_SUFFIXES else OTHER_SUFFIXES.get(suffix.lower(), ".png")


def _plain_name(source: Path, root: Path | None, output: str | None, tag: str, suffix: str) -> Named:
    """Return the name of a result as it is if no other result has the same."""
    if source == STDIO or is_descriptor(source):
        return Named(source, root, Path(output or ""), "picture", tag, suffix or ".png")
    suffix = suffix or _result_suffix(source)
    folder = source.parent
    if output is not None:
        folder = Path(output) / (source.relative_to(root).parent if root else Path())
    return Named(source, root, folder, source.stem, tag, suffix)


def _check_target(item: Item, taken: set[Path], sources: set[Path], *, overwrite: bool) -> None:
    target = item.target
    if target == STDIO:
        if isinstance(sys.stdout, ClosedStream):
            raise OutputError("standard output is closed", "name a file with -o")
        return
    try:
        exists = target.exists()
    except OSError as error:
        raise OutputError(f"{target}: {error.strerror}", "name another file with -o") from error
    if reason := reserved_reason(target):
        raise OutputError(f"{target.name} {reason}, so Windows has no such file", "name another file with -o")
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


def find_log_folder(pictures: Sequence[Found], output: str | None) -> Path | None:
    """Return the folder that holds the log of a run.

    Args:
        pictures: The pictures and the input folders in which they were found.
        output: The output option, as in `resolve_targets`.

    Returns:
        The output folder; without an output, the input folder if there is exactly one and nothing else is restored;
        else None.
    """
    if output is not None:
        return Path(output) if _is_folder(pictures, output) else None
    roots = {root for _, root in pictures if root is not None}
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
            picture, or that stem followed by "_mask", at the same place in the folder tree. A mask whose stem is that
            of the picture followed by its ending, such as a_gif.png for a.gif, comes first.
        item: The picture.

    Raises:
        PictureError: The folder has no mask for the picture.
    """
    if not mask.is_dir():
        return mask
    folder = mask / (item.source.relative_to(item.root).parent if item.root else Path())
    stem, suffixes = item.source.stem, picture_suffixes()
    longer = f"{stem}_{item.source.suffix.removeprefix('.')}"  # where pictures differ in their ending alone
    for name in (longer, f"{longer}_mask", stem, f"{stem}_mask"):
        for candidate in sorted(folder.glob(f"{glob.escape(name)}.*")):
            if candidate.stem == name and candidate.suffix.lower() in suffixes and candidate.is_file():
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
