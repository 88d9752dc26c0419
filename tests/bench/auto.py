"""Compare `restore auto` with the best sequence of single commands, and measure what it does to good pictures.

python tests/bench/auto.py damaged FOLDER --results damaged.csv   # 30 crops with one to three damages
python tests/bench/auto.py good FOLDER --results good.csv         # PSNR of crops without damage to themselves

`damaged` draws the damages of `tests/bench/auto_damages.py`. Every sequence of the commands that repair them is run in
every order with the same options, and its pictures are rounded to 8 bits in between, as files hold them. Only the first
command of a sequence sees the JPEG file. The best sequence is chosen by the truth, which a person does not have. A
sequence whose last command changes nothing is not continued, because it equals a shorter one.

The table is written to the CSV file after every crop, and a run continues where an earlier one has stopped. `--again`
measures `auto` again and keeps what the sequences have reached.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from auto_damages import KINDS, MARGIN, SCALE, Damaged, damage, to_tensor
from PIL import Image
from torch import Tensor

from restorer.evaluation.metrics import psnr
from restorer.measurement.earlier_jpeg import find_jpeg
from restorer.models.load import load_prior
from restorer.tasks.auto import prepare_auto
from restorer.tasks.blind_deblur import prepare_blind_deblur
from restorer.tasks.dejpeg import prepare_dejpeg
from restorer.tasks.denoise import prepare_denoise
from restorer.tasks.inpaint import prepare_inpaint
from restorer.tasks.job import Job
from restorer.tasks.repair import describe_repairs
from restorer.tasks.scratches import scratch_mask
from restorer.tasks.upscale import prepare_upscale

Command = Callable[[Tensor, bytes | None], Job]
Row = dict[str, str]

COMMANDS_OF = {
    "white": ("denoise",),
    "camera": ("denoise",),
    "jpeg": ("dejpeg", "denoise"),
    "blur": ("deblur",),
    "scratches": ("inpaint",),
    "small": ("upscale",),
}
"""The commands that may repair a damage."""

BAR, BAR_OF_GOOD = 0.1, 44.0  # dB below the best sequence, and to a good picture itself
DAMAGED = ("number", "picture", "damage", "input", "by_hand", "best", "all", "auto", "gain", "found")
GOOD = ("number", "picture", "auto", "found")


class Table:
    """Rows of a CSV file that an earlier run may have begun.

    Args:
        path: The file; None to keep nothing.
        names: The names of the columns.
    """

    def __init__(self, path: Path | None, names: tuple[str, ...]) -> None:
        self.path, self.names, self.rows = path, names, dict[int, Row]()
        if path is not None and path.exists():
            with path.open(newline="") as file:
                self.rows = {int(row["number"]): row for row in csv.DictReader(file)}

    def put(self, row: Row) -> None:
        """Keep a row, print it, and write the file anew."""
        self.rows[int(row["number"])] = row
        print("; ".join(row[name] for name in self.names if name != "all"), flush=True)
        if self.path is None:
            return
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.names)
            writer.writeheader()
            writer.writerows(self.rows[number] for number in sorted(self.rows))
        partial.replace(self.path)


def commands(detail: float | None) -> dict[str, Command]:
    """Return the single commands: functions of a picture and of the bytes of its file."""
    options = {"detail": detail, "prior": load_prior()}

    def denoise(x: Tensor, file: bytes | None) -> Job:
        return prepare_denoise(x, jpeg=find_jpeg(x, file), **options)

    def dejpeg(x: Tensor, file: bytes | None) -> Job:
        return prepare_dejpeg(x, find_jpeg(x, file), **options)

    def deblur(x: Tensor, file: bytes | None) -> Job:
        return prepare_blind_deblur(x, **options)

    def inpaint(x: Tensor, file: bytes | None) -> Job:
        return prepare_inpaint(x, torch.from_numpy(scratch_mask(x, prior=options["prior"]).fill), **options)

    def upscale(x: Tensor, file: bytes | None) -> Job:
        return prepare_upscale(x, SCALE, sigma=None, jpeg=find_jpeg(x, file), **options)

    return {"denoise": denoise, "dejpeg": dejpeg, "deblur": deblur, "inpaint": inpaint, "upscale": upscale}


def ends(found: Damaged, kinds: tuple[str, ...], detail: float | None) -> Iterator[tuple[str, Tensor]]:
    """Yield the sequences of commands and what they make of a picture, each with another result.

    A small picture is enlarged at some place of each. Compression is not undone after that, which leaves nothing of its
    grid, and the result is too large for the picture to be a JPEG of its own.
    """
    known = commands(detail)
    usable = list(dict.fromkeys(name for kind in kinds for name in COMMANDS_OF[kind]))

    def follow(done: tuple[str, ...], x: Tensor) -> Iterator[tuple[str, Tensor]]:
        if "small" not in kinds or "upscale" in done:
            yield " > ".join(done) or "nothing", x
        for name in usable:
            if name in done or (name == "dejpeg" and "upscale" in done):
                continue
            job = known[name](x, None if done else found.file).measured()
            if not job.is_copy or job.second_pass is not None:
                yield from follow((*done, name), as_stored(job))

    return follow((), found.pixels)


def as_stored(job: Job) -> Tensor:
    """Return the result of a job as a file of 8 bits holds it."""
    return (job.run().image * 255).round().clamp(0, 255) / 255


def crops(options: argparse.Namespace, margin: int) -> Iterator[tuple[int, str, Tensor]]:
    """Yield numbers, names and middles of pictures, with a margin around them."""
    paths = sorted(path for path in options.input.iterdir() if path.suffix in (".png", ".jpg", ".bmp"))
    side = options.side + 2 * margin
    for number, path in enumerate(paths[options.first :: options.every][: options.count]):
        if options.only and number not in options.only:
            continue
        with Image.open(path) as image:
            left, top = (image.width - side) // 2, (image.height - side) // 2
            yield number, path.name, to_tensor(image.convert("RGB").crop((left, top, left + side, top + side)))


def damaged(options: argparse.Namespace) -> None:
    """Print for each picture the best sequence and what `auto` makes of it."""
    table = Table(options.results, DAMAGED)
    print("; ".join(name for name in DAMAGED if name != "all"))
    for number, name, wide in crops(options, MARGIN):
        row = table.rows.get(number)
        if row is not None and not options.again:
            continue
        kinds = KINDS[number % len(KINDS)]
        found, true = damage(wide, kinds, number + options.seed)
        if row is None:
            row = {"number": str(number), "picture": name, "damage": found.words}
            scores = {words: psnr(x, true) for words, x in ends(found, kinds, options.detail)}
            best = max(scores, key=scores.__getitem__)
            row["input"] = "" if "small" in kinds else f"{psnr(found.pixels, true):.2f}"
            row["by_hand"], row["best"] = best, f"{scores[best]:.3f}"
            row["all"] = ", ".join(f"{words} {score:.2f}" for words, score in scores.items())
        job = prepare_auto(
            found.pixels,
            scale=SCALE if "small" in kinds else None,
            jpeg=find_jpeg(found.pixels, found.file),
            detail=options.detail,
            prior=load_prior(),
        ).measured()
        after = psnr(as_stored(job), true)
        gain, words = f"{after - float(row['best']):+.2f}", describe_repairs(job.repairs or ())
        table.put({**row, "auto": f"{after:.2f}", "gain": gain, "found": words})
    met = sum(float(row["gain"]) >= -BAR for row in table.rows.values())
    print(f"{met} of {len(table.rows)} are at most {BAR} dB below the best sequence")


def good(options: argparse.Namespace) -> None:
    """Print the PSNR of good pictures to themselves, where they are changed."""
    table = Table(options.results, GOOD)
    for number, name, x in crops(options, 0):
        if number in table.rows and not options.again:
            continue
        job = prepare_auto(x, jpeg=find_jpeg(x, None), detail=options.detail, prior=load_prior()).measured()
        score, words = psnr(as_stored(job), x), describe_repairs(job.repairs or ())
        table.put({"number": str(number), "picture": name, "auto": f"{score:.2f}", "found": words})
    met = sum(float(row["auto"]) >= BAR_OF_GOOD for row in table.rows.values())
    print(f"{met} of {len(table.rows)} have at least {BAR_OF_GOOD} dB to themselves")


def main() -> None:
    """Run one of the commands of the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["damaged", "good"])
    parser.add_argument("input", type=Path)
    parser.add_argument("--results", type=Path, help="CSV file that is written, and continued if it exists")
    parser.add_argument("--again", action="store_true", help="measure auto again for the crops of the CSV file")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the crops to take")
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="number of the first picture of the folder")
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="added to the number of a crop, draws other damages")
    parser.add_argument("--detail", type=float)
    options = parser.parse_args()
    with torch.inference_mode():
        {"damaged": damaged, "good": good}[options.command](options)


if __name__ == "__main__":
    main()
