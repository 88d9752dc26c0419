"""Remove an object from each of fourteen photographs, to look at what is left of it.

    python tests/bench/removed.py OUT SHARD... [--only NAME ...] [--sheet]

Twelve photographs are those of the training shards whose files begin with the numbers of OBJECTS, and two those of
tests/images. Each is shrunk to at most 640 pixels; the polygon of its object is the mask. OUT gets the photographs, the
masks and the results, which are not made again if they are there. Nothing is judged: the places have to be looked at,
at full size and at arm's length, for which OUT/arm.png has all results 300 pixels wide. `--sheet` also draws
tests/images/removed.jpg, the pictures of docs/how-to/masks.md.
"""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import restorer

IMAGES = Path(__file__).parents[1] / "images"
SIDE, SMALL, GAP = 640, (300, 230), 4
SHOWN = ("pole", "grape", "tag")
STAMP, STAMP_SIZE, STAMP_COLOUR = "'98 7 15", 30, (255, 150, 40)

Points = list[tuple[int, int]]
OBJECTS: dict[str, tuple[str, Points]] = {
    "eagle": (
        "10085_",
        [(245, 40), (300, 38), (335, 120), (352, 158), (400, 198), (465, 216), (455, 248), (425, 268), (330, 228)]
        + [(300, 222), (252, 212), (252, 162), (285, 158), (258, 110)],
    ),
    "van": ("20017_", [(325, 275), (436, 275), (440, 376), (335, 380), (322, 330)]),
    "pole": (
        "20017_",
        [(330, 120), (374, 120), (374, 136), (362, 136), (362, 282), (346, 282), (346, 136), (330, 136)],
    ),
    "person": (
        "00086_",
        [(320, 222), (335, 214), (368, 220), (390, 260), (394, 308), (378, 340), (330, 338), (318, 300), (306, 280)],
    ),
    "title": ("00048_", [(240, 164), (400, 164), (400, 202), (240, 202)]),
    "logo": ("20264_", [(256, 66), (386, 66), (386, 98), (256, 98)]),
    "rock": (
        "20036_",
        [(335, 262), (362, 236), (430, 236), (465, 275), (462, 312), (440, 340), (365, 335), (338, 300)],
    ),
    "stalk": ("20032_", [(58, 62), (70, 58), (240, 182), (312, 238), (308, 252), (230, 198), (62, 76)]),
    "orange-leaf": ("20019_", [(190, 206), (235, 200), (280, 268), (240, 278), (205, 250)]),
    "flower": (
        "00232_",
        [(248, 62), (332, 62), (356, 118), (402, 84), (406, 118), (352, 134), (334, 184), (272, 184), (244, 122)],
    ),
    "boat": (
        "10263_",
        [(392, 282), (432, 284), (524, 352), (530, 402), (512, 432), (440, 392), (392, 340)],
    ),
    "date": ("00042_", [(484, 316), (626, 316), (626, 352), (484, 352)]),
    "grape": (
        "grapes.jpg",
        [(400, 198), (440, 208), (462, 240), (462, 290), (440, 320), (405, 330), (365, 315), (346, 280), (348, 235)]
        + [(368, 208)],
    ),
    "tag": ("eagles.jpg", [(304, 198), (346, 208), (332, 234), (310, 250), (302, 240)]),
}
"""The first characters of the file of each photograph, and the corners of the mask."""


def photographs(names: Iterable[str], shards: list[Path]) -> dict[str, Image.Image]:
    """Read the photographs of objects, at most SIDE pixels wide and high; one of them gets a date stamp."""
    found: dict[str, Image.Image] = {}
    for name in names:
        if (IMAGES / OBJECTS[name][0]).is_file():
            found[name] = Image.open(IMAGES / OBJECTS[name][0]).convert("RGB")
    for shard in shards:
        with tarfile.open(shard) as archive:
            for member in archive:
                for name in names:
                    file = archive.extractfile(member)
                    if file is not None and Path(member.name).name.startswith(OBJECTS[name][0]):
                        found[name] = Image.open(file).convert("RGB")
    for image in found.values():
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    if "date" in found:
        pen, font = ImageDraw.Draw(found["date"]), ImageFont.load_default(STAMP_SIZE)
        pen.text((found["date"].width - 150, found["date"].height - 45), STAMP, STAMP_COLOUR, font)
    return found


def sheet(rows: list[list[Image.Image]], path: Path) -> None:
    """Write pictures in rows and columns, each shrunk to at most SMALL."""
    for row in rows:
        for image in row:
            image.thumbnail(SMALL, Image.Resampling.LANCZOS)
    heights = [max(image.height for image in row) + GAP for row in rows]
    result = Image.new("RGB", (max(map(len, rows)) * (SMALL[0] + GAP) - GAP, sum(heights) - GAP), "white")
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            result.paste(image, (column * (SMALL[0] + GAP), sum(heights[:number])))
    result.save(path, quality=88)


def main() -> None:
    """Write the files of the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("shards", type=Path, nargs="*")
    parser.add_argument("--only", nargs="+", choices=OBJECTS, default=list(OBJECTS))
    parser.add_argument("--sheet", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    prior, shown, results = restorer.load_prior("photo"), [], []
    for name, image in photographs(options.only, options.shards).items():
        mask, path = Image.new("L", image.size), options.out / f"{name}_removed.png"
        ImageDraw.Draw(mask).polygon(OBJECTS[name][1], fill=255)
        image.save(options.out / f"{name}.png")
        mask.save(options.out / f"{name}_mask.png")
        if not path.exists():
            restorer.inpaint(image, mask, prior=prior).save(path)
        print(path, flush=True)
        results.append(Image.open(path).convert("RGB"))
        if name in SHOWN:
            shown.append([image.copy(), mask.convert("RGB"), results[-1].copy()])
    sheet([results[i : i + 4] for i in range(0, len(results), 4)], options.out / "arm.png")
    if options.sheet:
        sheet(shown, IMAGES / "removed.jpg")


if __name__ == "__main__":
    main()
