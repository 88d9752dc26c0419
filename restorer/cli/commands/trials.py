"""The pictures that `evaluate` restores: the checked command line, and what it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restorer.cli.commands.measuring import Tally
from restorer.cli.terminal.multi_values import split_values
from restorer.errors import PictureError, UsageError
from restorer.folders.blur_options import BlurOptions
from restorer.folders.options import Options
from restorer.folders.paths import Item, find_mask
from restorer.images.find import collect
from restorer.limits import check

if TYPE_CHECKING:
    from restorer.evaluation.degraded import Condition, Sample

    Trial = tuple[Path, str, list[tuple[Condition, Path | None]]]

__all__ = [
    "MASK_KINDS",
    "Request",
    "degrade_trial",
    "list_pairs",
    "list_trials",
    "parse_blur_noise",
    "parse_blurs",
    "parse_pair_values",
    "parse_values",
    "read_pair",
]

MASK_KINDS = ("random", "box", "text", "scratch")
PARAMETER = {
    "denoise": "sigma",
    "upscale": "scale",
    "inpaint": "kind",
    "deblur": "blur",
}  # the field of `Condition` that a task varies
OPTION = {"sigma": "--sigma", "scale": "--scale", "kind": "--mask-kind", "blur": "--gaussian"}
DEBLUR_SIGMA = 2.55  # noise of the pictures that are blurred here: a hundredth of the range
DEFAULT: dict[str, tuple[Any, ...]] = {"denoise": (25.0,), "upscale": (4,), "inpaint": ("random",)}


@dataclass(frozen=True)
class Request:
    """A checked command line.

    Args:
        options: Options that `evaluate` shares with the restoring verbs.
        folder: Folder of clean pictures; with `truth` or `suffixes`, of degraded ones.
        task: "denoise", "upscale", "inpaint" or "deblur".
        values: Sigmas, scales, kinds of masks or blurs, by the task; for pairs, the sigma that the restorer is told.
        mask: Folder of masks for inpainting; None to draw them.
        eight_bit: Whether noisy pictures and results are clipped and rounded to 8 bits.
        baselines: Whether methods without a network are measured too.
        limit: Largest number of pictures; None for all.
        csv: File for the figures of every picture, if any.
        sheet: File for the contact sheet, if any.
        truth: Folder of the truths of the degraded pictures, if any.
        suffixes: Ends of the names of degraded pictures and of their truths in one folder, if any.
        perception: Whether what people see is measured too.
        sigma: For deblur, the noise of the pictures that are blurred here.
        blind: For deblur, whether the restorer has to find the blur.
    """

    options: Options
    folder: str
    task: str
    values: tuple[Any, ...]
    mask: Path | None
    eight_bit: bool
    baselines: bool
    limit: int | None
    csv: Path | None
    sheet: Path | None
    truth: Path | None = None
    suffixes: tuple[str, str] | None = None
    perception: bool = False
    sigma: float = DEBLUR_SIGMA
    blind: bool = False

    @property
    def has_pairs(self) -> bool:
        """Whether degraded pictures are given beside their truths."""
        return self.truth is not None or self.suffixes is not None

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling options other than the noise level, which the condition sets."""
        return {name: value for name, value in self.options.sampling.items() if name != "sigma"}


def parse_values(task: str, texts: dict[str, list[str] | None], mask: Path | None) -> tuple[Any, ...]:
    """Return the sigmas, scales or kinds of masks of a task, checked.

    Args:
        task: Name of the task.
        texts: Values on the command line of each of the options in `OPTION`, by its key there.
        mask: Folder of masks; with it and without kinds, the result is empty and every mask is taken.

    Raises:
        UsageError: The task or a value is not possible, or an option belongs to another task.
    """
    if task not in PARAMETER:
        raise UsageError(f"unknown task {task!r}", f"choose one of {', '.join(PARAMETER)}")
    option = OPTION[PARAMETER[task]]
    for name, given in texts.items():
        if given and name != PARAMETER[task]:
            raise UsageError(f"{OPTION[name]} does not apply to {task}", f"use {option} with {task}")
    if mask is not None and task != "inpaint":
        raise UsageError(f"--mask does not apply to {task}", "add --task inpaint")
    values = split_values(texts[PARAMETER[task]])
    if task == "inpaint":
        if unknown := [value for value in values if value not in MASK_KINDS]:
            raise UsageError(f"unknown kind of mask {unknown[0]!r}", f"choose one of {', '.join(MASK_KINDS)}")
        return tuple(values) or (DEFAULT[task] if mask is None else ())
    try:
        numbers = [float(value) if task == "denoise" else int(value) for value in values]
    except ValueError:
        raise UsageError(f"{option} takes numbers, not {' '.join(values)!r}") from None
    for number in numbers:
        check(sigma=number) if task == "denoise" else check(scale=int(number))
    return tuple(numbers) or DEFAULT[task]


def parse_blurs(
    task: str,
    gaussian: list[str] | None,
    defocus: list[str] | None,
    motion: list[str] | None,
    kernel: list[Path] | None,
    *,
    blind: bool,
) -> tuple[BlurOptions, ...]:
    """Return the blurs that pictures are to be blurred by, checked.

    Args:
        task: Name of the task.
        gaussian: Values of --gaussian.
        defocus: Values of --defocus.
        motion: Values of --motion.
        kernel: Values of --kernel.
        blind: Whether --blind was given.

    Raises:
        UsageError: A value is out of range, a blur is given for another task, or none for deblur.
        PictureError: The file of a kernel does not exist.
    """
    texts = {"gaussian": split_values(gaussian), "defocus": split_values(defocus), "motion": split_values(motion)}
    named = [(name, value) for name, values in texts.items() for value in values]
    if task != "deblur":
        if named or kernel or blind:
            option = "--blind" if blind else f"--{named[0][0] if named else 'kernel'}"
            raise UsageError(f"{option} does not apply to {task}", "add --task deblur")
        return ()
    blurs = [_blur_of(name, value) for name, value in named]
    blurs += [BlurOptions.of(None, None, None, path) for path in kernel or ()]
    return tuple(blur for blur in blurs if blur is not None)


def _blur_of(name: str, value: str) -> BlurOptions | None:
    """Return the blur of one option; see `parse_blurs`."""
    if name == "gaussian":
        return BlurOptions.of(value, None, None, None)
    if name == "motion":
        return BlurOptions.of(None, None, value, None)
    try:
        return BlurOptions.of(None, float(value), None, None)
    except ValueError:
        raise UsageError(f"--defocus takes numbers, not {value!r}") from None


def parse_blur_noise(values: list[str] | None) -> float:
    """Return the noise of pictures that are blurred here, on the 0..255 scale.

    Raises:
        UsageError: There are several values, or one that is not possible.
    """
    texts = split_values(values)
    if len(texts) > 1:
        raise UsageError("deblur takes one noise level", "give --sigma one value")
    try:
        sigma = float(texts[0]) if texts else DEBLUR_SIGMA
    except ValueError:
        raise UsageError(f"--sigma takes a number, not {texts[0]!r}") from None
    check(sigma=sigma)
    return sigma


def parse_pair_values(
    task: str,
    truth: Path | None,
    suffixes: tuple[str, str] | None,
    sigma: list[str] | None,
    mask: Path | None,
    others: list[str],
) -> tuple[float, ...]:
    """Return the noise level that the restorer is told, or nothing if it decides itself.

    Args:
        task: Name of the task.
        truth: Folder of the truths.
        suffixes: Ends of the names.
        sigma: Values of --sigma.
        mask: Masks of the pictures, for inpaint.
        others: Values of options that only concern pictures that are degraded here.

    Raises:
        UsageError: The options cannot be combined, or a value is not possible.
    """
    if task not in PARAMETER:
        raise UsageError(f"unknown task {task!r}", f"choose one of {', '.join(PARAMETER)}")
    if truth is not None and suffixes is not None:
        raise UsageError("--truth and --pair cannot be combined", "use one of them")
    if suffixes is not None and (not suffixes[0] or suffixes[0] == suffixes[1]):
        raise UsageError("--pair needs two different ends of names, and the first must not be empty")
    if (mask is not None) != (task == "inpaint"):
        raise UsageError(
            "inpaint needs masks, and the other tasks have none", "add --mask DIR for inpaint, or leave it out"
        )
    if others:
        raise UsageError(
            "--scale and --mask-kind degrade pictures, but --truth and --pair take them as they are",
            "leave them out; the scale is read off the sizes",
        )
    values = split_values(sigma)
    if len(values) > 1:
        raise UsageError(
            "with --truth or --pair the restorer is told one noise level at most", "give --sigma one value"
        )
    try:
        numbers = tuple(float(value) for value in values)
    except ValueError:
        raise UsageError(f"--sigma takes a number, not {values[0]!r}") from None
    for number in numbers:
        check(sigma=number)
    return numbers


def list_trials(request: Request) -> list[Trial]:
    """Return every picture, its name inside the folder, and the conditions to degrade it by, each with its mask.

    Raises:
        PictureError: There are no pictures, or none of them has a mask.
    """
    if request.mask is not None and not request.mask.is_dir():
        raise PictureError(f"{request.mask} is not a folder of masks", "check the path")
    pictures = collect([request.folder], recursive=True)
    from restorer.evaluation.degraded import Condition
    from restorer.evaluation.trial_masks import find_masks

    trials: list[Trial] = []
    for path, root in pictures:
        conditions: list[tuple[Condition, Path | None]]
        if request.task == "deblur":
            conditions = [
                (Condition("deblur", request.sigma, kind=str(blur), kernel=blur.make(), is_blind=request.blind), None)
                for blur in request.values
            ]
        elif request.mask is None:
            conditions = [
                (Condition(request.task, **{PARAMETER[request.task]: value}), None) for value in request.values
            ]
        else:
            kinds = request.values or ("",)  # these are prefixes: "random" also selects "random70"
            masks = {kind: mask for kind, mask in find_masks(request.mask, path).items() if kind.startswith(kinds)}
            conditions = [(Condition("inpaint", kind=kind), mask) for kind, mask in masks.items()]
        if conditions:
            trials.append((path, path.relative_to(root).as_posix() if root else path.name, conditions))
    if not trials:
        hint = "masks are named {stem}_{kind}.png or {anything}_{stem}_{kind}.png"
        raise PictureError(f"no picture in {request.folder} has a mask in {request.mask}", hint)
    return trials[: request.limit]


def list_pairs(request: Request, results: Tally) -> list[Trial]:
    """Return every degraded picture, its name inside the folder, and how to restore it, with the file of its truth.

    Pictures without a truth are reported as failures and left out.

    Raises:
        PictureError: There are no pictures, or none of them has a truth.
    """
    if request.truth is not None and not request.truth.is_dir():
        raise PictureError(f"{request.truth} is not a folder of pictures", "check the path")
    pictures = collect([request.folder], recursive=True)
    from restorer.evaluation.degraded import Condition
    from restorer.evaluation.pairs import find_truth, split_by_suffix

    roots = dict(pictures)
    pairs: list[tuple[Path, Path | None]]
    if request.suffixes is not None:
        pairs = split_by_suffix(list(roots), *request.suffixes)
    else:
        pairs = [(path, None) for path in roots]
    condition = Condition(request.task, sigma=request.values[0] if request.values else None)
    trials: list[Trial] = []
    for path, found in pairs[: request.limit]:
        root = roots[path]
        try:
            truth = found
            if request.truth is not None:
                truth = find_truth(path, root, request.truth)
            if truth is None:
                raise PictureError(f"there is no truth for {path}", "its name ends as the second value of --pair says")
        except PictureError as error:
            results.add_failure(path, error)
            continue
        trials.append((path, path.relative_to(root).as_posix() if root else path.name, [(condition, truth)]))
    if not trials:
        raise PictureError(f"no picture in {request.folder} has a truth", "check --truth or --pair")
    return trials


def read_pair(request: Request, trial: Trial) -> list[Sample]:
    """Return the degraded picture of a trial with its truth.

    Raises:
        PictureError: A picture or a mask cannot be read, or the pictures do not fit each other.
        UsageError: The mask is missing or has another size.
    """
    from restorer.evaluation.pairs import load_pair

    path, _, ((condition, truth),) = trial
    assert truth is not None
    mask = None
    if request.mask is not None:
        mask = find_mask(request.mask, Item(path, Path(), Path(request.folder)))
    return [load_pair(path, truth, condition, mask)]


def degrade_trial(request: Request, trial: Trial) -> list[Sample]:
    """Return the picture of a trial degraded by each of its conditions.

    Raises:
        PictureError: The picture or a mask cannot be read.
        UsageError: A mask has another shape than the picture.
    """
    import torch

    from restorer.evaluation.degraded import degrade, derive_seed
    from restorer.images.files import load, load_mask, to_tensor

    path, name, conditions = trial
    truth = to_tensor(load(path))
    samples = []
    for condition, mask in conditions:
        fill = None if mask is None else torch.from_numpy(load_mask(mask, (truth.shape[1], truth.shape[2])).fill)
        seed = derive_seed(request.options.seed, name)
        samples.append(degrade(truth, condition, seed, fill=fill, eight_bit=request.eight_bit))
    return samples
