"""Measure what enlarging makes of pictures that no shrinking has made: drawings, screenshots, sharpened thumbnails.

    python tests/bench/drawings.py [--kinds KIND ...] [--scales 2 4] [--details 0 default] [--files png jpeg]
        [--out OUT]

The pictures are drawn here, but for thumbnails of the photographs of tests/images. Each is enlarged as it is, or from a
JPEG file of quality 85. The figures of a row, all in levels of 0..255:

    overshoot   by how much the result leaves the range of the five by five small pixels around, at most
    ground      by how much it deviates from a ground where these pixels are equal, at most
    truth       PSNR in dB of all channels to the same picture drawn large, for kinds that can be

each of the result and of the bicubic enlargement. A row is met if the overshoot and the deviation of the ground are at
most those of the bicubic enlargement and 3 levels. The range, and where the ground is, are those of the picture before
its compression. OUT gets bicubic enlargements and results side by side, two rows of details for each picture.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import restorer

IMAGES = Path(__file__).parents[1] / "images"
WIDTH, HEIGHT = 112, 80
SMALLER = 80  # width of a thumbnail in pixels
QUALITY = 85
BAR = 3.0  # levels
REACH = 5  # side of the neighbourhood in small pixels

Draw = Callable[[int], Image.Image]
"""A function that draws a picture so many times as large."""


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that Pillow carries, in a size."""
    return ImageFont.load_default(size)


def drawn(paint: Callable[[ImageDraw.ImageDraw, int], None], ground: str, smooth: int = 1) -> Draw:
    """Return a function that draws on a ground, `smooth` times as large and then shrunk by the mean of squares."""

    def draw(unit: int) -> Image.Image:
        image = Image.new("RGB", (WIDTH * unit * smooth, HEIGHT * unit * smooth), ground)
        paint(ImageDraw.Draw(image), unit * smooth)
        return image.reduce(smooth)

    return draw


def scaled(*values: float, unit: int) -> list[float]:
    """Return coordinates in pixels of a picture that is `unit` times as large."""
    return [value * unit for value in values]


def box(x: float, y: float, right: float, bottom: float, u: int) -> list[float]:
    """Return a rectangle of pixels of the small picture, both corners inside, in a picture `u` times as large."""
    return [x * u, y * u, (right + 1) * u - 1, (bottom + 1) * u - 1]


def paint_window(d: ImageDraw.ImageDraw, u: int, ink: str, bar: str, faint: str, accent: str) -> None:
    """Paint a window with a title, a menu, a field, text in several sizes and colours, and a button."""
    d.rectangle(box(0, 0, WIDTH - 1, 11, u), fill=bar)
    d.text((4 * u, 0), "File  Edit  View", fill="white", font=font(9 * u))
    d.rectangle(box(6, 17, 70, 29, u), outline=faint, width=u)
    d.text((9 * u, 18 * u), "Search 0 8 Il", fill=faint, font=font(9 * u))
    d.text((6 * u, 33 * u), "Save changes?", fill=ink, font=font(12 * u))
    d.text((6 * u, 49 * u), "quick brown fox 123", fill=ink, font=font(8 * u))
    d.text((6 * u, 60 * u), "a link to follow", fill=accent, font=font(8 * u))
    d.rounded_rectangle(box(76, 34, 106, 48, u), 3 * u, fill=accent)
    d.text((84 * u, 35 * u), "OK", fill="white", font=font(10 * u))
    d.ellipse(box(82, 56, 100, 74, u), fill="#e6503c")


def paint_light(d: ImageDraw.ImageDraw, u: int) -> None:
    paint_window(d, u, "#202020", "#2860a8", "#808080", "#1a56c4")


def paint_dark(d: ImageDraw.ImageDraw, u: int) -> None:
    paint_window(d, u, "#d8d8d8", "#3a3d41", "#8a8a8a", "#4fa3ff")


def paint_lines(d: ImageDraw.ImageDraw, u: int) -> None:
    """Paint arcs, slanted lines and a hatch."""
    for k in range(4):
        d.arc(box(6 + 6 * k, 6 + 6 * k, 74 - 6 * k, 62 - 5 * k, u), 20 * k, 300, fill="black", width=u)
    d.line(scaled(0, 76, 108, 4, unit=u), fill="#141478", width=u)
    d.line(scaled(78, 8, 104, 70, unit=u), fill="black", width=2 * u)
    for k in range(6):
        d.line(scaled(84 + 4 * k, 6, 74 + 4 * k, 30, unit=u), fill="#505050", width=u)


def paint_pixels(d: ImageDraw.ImageDraw, u: int) -> None:
    """Paint squares of a few colours, and a sprite of single pixels."""
    colours = ("#f0f0f0", "#282828", "#c83c3c", "#3c78c8")
    drawn_squares = np.random.default_rng(3).integers(0, 4, (10, 7))
    for (row, column), index in np.ndenumerate(drawn_squares):
        d.rectangle(box(8 * column, 8 * row, 8 * column + 7, 8 * row + 7, u), fill=colours[index])
    sprite = np.random.default_rng(4).random((16, 8)) < 0.5
    for (row, column), is_set in np.ndenumerate(np.hstack([sprite, sprite[:, ::-1]])):
        if is_set:
            d.rectangle(box(76 + column, 12 + row, 76 + column, 12 + row, u), fill="#3cc878")
            d.rectangle(box(66 + 2 * column, 44 + 2 * row, 67 + 2 * column, 45 + 2 * row, u), fill="#ffd23c")


def paint_comic(d: ImageDraw.ImageDraw, u: int) -> None:
    """Paint a face in flat colours with black outlines, and a balloon with letters."""
    d.rectangle(box(0, 52, WIDTH - 1, HEIGHT - 1, u), fill="#7ac36a")
    d.ellipse(box(8, 14, 52, 66, u), fill="#f6c8a0", outline="black", width=2 * u)
    d.pieslice(box(6, 8, 54, 52, u), 180, 360, fill="#8a3324", outline="black", width=2 * u)
    for x in (20, 34):
        d.ellipse(box(x, 32, x + 7, 40, u), fill="white", outline="black", width=u)
        d.ellipse(box(x + 3, 35, x + 5, 37, u), fill="black")
    d.arc(box(18, 40, 42, 56, u), 20, 160, fill="#b01020", width=2 * u)
    d.ellipse(box(58, 6, 108, 34, u), fill="white", outline="black", width=u)
    d.polygon(scaled(62, 28, 52, 42, 72, 33, unit=u), fill="white", outline="black")
    d.text((66 * u, 12 * u), "WOW!", fill="black", font=font(13 * u))


def paint_chart(d: ImageDraw.ImageDraw, u: int) -> None:
    """Paint bars, a curve, a grid and numbers."""
    for k in range(5):
        d.line(scaled(16, 8.5 + 14 * k, 108, 8.5 + 14 * k, unit=u), fill="#dcdcdc", width=u)
        d.text((2 * u, (3 + 14 * k) * u), str(40 - 10 * k), fill="#404040", font=font(8 * u))
    for k, (high, colour) in enumerate(zip((20, 38, 30, 52, 44), ("#1f77b4", "#ff7f0e") * 3, strict=False)):
        d.rectangle(box(20 + 18 * k, 65 - high, 31 + 18 * k, 64, u), fill=colour)
    points = [(16 + 4 * k, 36 - 18 * math.sin(k / 3.5)) for k in range(23)]
    d.line([(x * u, y * u) for x, y in points], fill="#d62728", width=u)
    d.line(box(16, 4, 16, 64, u)[:2] + scaled(16, 65, unit=u), fill="black", width=u)


def paint_map(d: ImageDraw.ImageDraw, u: int) -> None:
    """Paint water, woods, roads with borders and names."""
    d.polygon(scaled(0, 50, 30, 44, 60, 62, 112, 56, 112, 80, 0, 80, unit=u), fill="#aad3df")
    d.polygon(scaled(60, 0, 112, 0, 112, 30, 84, 36, 66, 20, unit=u), fill="#add19e")
    for colour, width in (("#a08060", 5), ("#fcd6a4", 3)):
        d.line(scaled(0, 14, 40, 26, 112, 44, unit=u), fill=colour, width=width * u, joint="curve")
    for colour, width in (("#bbbbbb", 4), ("white", 2)):
        d.line(scaled(40, 26, 48, 80, unit=u), fill=colour, width=width * u)
    d.text((4 * u, 26 * u), "Mill Rd", fill="#333333", font=font(8 * u))
    d.text((66 * u, 64 * u), "Lake", fill="#5a7fb0", font=font(10 * u))
    d.text((78 * u, 8 * u), "Wood", fill="#2f5f2f", font=font(8 * u))


def paint_steps(d: ImageDraw.ImageDraw, u: int) -> None:
    """Paint areas whose edges run at several angles, of strong and of weak contrast."""
    for k in range(8):
        first, second = (math.pi * (k + n) / 4 + 0.2 for n in (0, 0.5))
        points = [(28 + 24 * math.cos(a), 40 + 24 * math.sin(a)) for a in (first, second)]
        d.polygon([(28 * u, 40 * u), *((x * u, y * u) for x, y in points)], fill=("#c8c8c8", "#ffffff")[k % 2])
    d.rectangle(box(62, 10, 80, 36, u), fill="#c8c8c8")
    d.rectangle(box(88, 10, 106, 36, u), fill="#000000")
    d.rectangle(box(62, 46, 80, 72, u), fill="#484848")
    d.polygon(scaled(88, 72, 98, 44, 108, 70, unit=u), fill="#ffffff")


def paint_dither(d: ImageDraw.ImageDraw, u: int) -> None:
    """Paint chequers and stripes of single pixels on a plain ground."""
    for y in range(10, 40):
        for x in range(10, 50):
            if (x + y) % 2:
                d.rectangle(box(x, y, x, y, u), fill="#303060")
    for k in range(12):
        d.rectangle(box(62 + 3 * k, 10, 62 + 3 * k, 40, u), fill="#602020")
        d.rectangle(box(10, 48 + 2 * k, 50, 48 + 2 * k, u), fill="#206020")


def thumbnail(name: str, filter_: Image.Resampling, sharpened: bool = False) -> Draw:
    """Return a function that returns a thumbnail of a photograph."""

    def make(unit: int) -> Image.Image:
        with Image.open(IMAGES / f"{name}.jpg") as photograph:
            left, top = (side // 2 - 2 * own for side, own in zip(photograph.size, (SMALLER, HEIGHT), strict=True))
            part = photograph.convert("RGB").crop((left, top, left + 4 * SMALLER, top + 4 * HEIGHT))
        small = part.resize((SMALLER, HEIGHT), filter_)
        return small.filter(ImageFilter.UnsharpMask(1.2, 200, 0)) if sharpened else small

    return make


def enlarged(draw: Draw, filter_: Image.Resampling) -> Draw:
    """Return a function that returns a picture that was enlarged already."""
    return lambda unit: draw(1).resize((2 * WIDTH, 2 * HEIGHT), filter_).crop((0, 0, WIDTH, HEIGHT))


FILTER = Image.Resampling
SCREENSHOT, COMIC = drawn(paint_light, "#fafafa"), drawn(paint_comic, "#f4e6b0", smooth=4)
KINDS: dict[str, Draw] = {
    "screenshot": SCREENSHOT,
    "dark-screenshot": drawn(paint_dark, "#1e1e1e"),
    "lines": drawn(paint_lines, "#ffffff"),
    "smooth-lines": drawn(paint_lines, "#f0f0f0", smooth=4),
    "pixel-art": drawn(paint_pixels, "#b4b4b4"),
    "dither": drawn(paint_dither, "#b4b4b4"),
    "comic": COMIC,
    "chart": drawn(paint_chart, "#ffffff"),
    "smooth-chart": drawn(paint_chart, "#f8f8f8", smooth=4),
    "map": drawn(paint_map, "#f2efe9", smooth=4),
    "steps": drawn(paint_steps, "#787878"),
    "smooth-steps": drawn(paint_steps, "#787878", smooth=4),
    "enlarged-screenshot": enlarged(SCREENSHOT, FILTER.BICUBIC),
    "enlarged-comic": enlarged(COMIC, FILTER.NEAREST),
    "sharpened-gates": thumbnail("gates", FILTER.LANCZOS, sharpened=True),
    "sharpened-grapes": thumbnail("grapes", FILTER.BICUBIC, sharpened=True),
    "nearest-gates": thumbnail("gates", FILTER.NEAREST),
    "nearest-grapes": thumbnail("grapes", FILTER.NEAREST),
    "nearest-eagles": thumbnail("eagles", FILTER.NEAREST),
}
WITHOUT_TRUTH = ("enlarged", "sharpened", "nearest")


def range_of(small: Image.Image, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest value of the small pixels around each pixel of an enlargement, float."""
    size = (small.width * scale, small.height * scale)
    low, high = (
        np.asarray(small.filter(kind(REACH)).resize(size, FILTER.NEAREST)).astype(float)
        for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
    )
    return low, high


def figures_of(large: Image.Image, small: Image.Image, scale: int) -> tuple[float, float]:
    """Return the overshoot of an enlargement, and the deviation of its ground, nan if there is none."""
    (low, high), x = range_of(small, scale), np.asarray(large).astype(float)
    off = np.maximum(np.maximum(x - high, low - x), 0)
    is_ground = ((high - low).max(axis=2) == 0)[..., None] & np.ones(3, bool)
    return float(off.max()), float(off[is_ground].max()) if is_ground.any() else math.nan


def psnr(large: Image.Image, truth: Image.Image) -> float:
    """Return the PSNR of an enlargement."""
    error = np.square(np.asarray(large).astype(float) - np.asarray(truth)).mean()
    return 10 * math.log10(255**2 / max(error, 1e-9))


def compressed(image: Image.Image, path: Path) -> Image.Image:
    """Write a picture to a JPEG file, and return the file, opened: its tables are found by its name."""
    image.save(path, "JPEG", quality=QUALITY)
    opened = Image.open(path)
    opened.load()
    return opened


def main() -> None:
    """Print a row for each picture, kind of file, scale and detail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--scales", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--details", nargs="+", choices=("0", "default"), default=["0", "default"])
    parser.add_argument("--files", nargs="+", choices=("png", "jpeg"), default=["png", "jpeg"])
    parser.add_argument("--out", type=Path, help="folder for pictures of the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Print the rows, with JPEG files in a folder."""
    prior = restorer.load_prior("photo", device="cpu")
    print("                                        overshoot       ground          truth")
    print("kind                 file  scale detail  bicubic ours    bicubic ours    bicubic ours")
    missed = count = 0
    for kind in options.kinds:
        small = KINDS[kind](1)
        for form in options.files:
            given = small if form == "png" else compressed(small, folder / f"{kind}.jpg")
            for scale in options.scales:
                size = (scale * small.width, scale * small.height)
                truth = None if kind.startswith(WITHOUT_TRUTH) else KINDS[kind](scale)
                bicubic = given.convert("RGB").resize(size, FILTER.BICUBIC)
                made = [bicubic]
                most, ground = figures_of(bicubic, small, scale)
                for detail in options.details:
                    result = restorer.upscale(
                        given, scale, detail=None if detail == "default" else float(detail), prior=prior
                    ).convert("RGB")
                    made.append(result)
                    own, own_ground = figures_of(result, small, scale)
                    is_met = own <= most + BAR and not own_ground > ground + BAR
                    missed, count = missed + (not is_met), count + 1
                    gains = "" if truth is None else f"{psnr(bicubic, truth):10.2f} {psnr(result, truth):7.2f}"
                    figures = f"{most:7.0f} {own:4.0f} {ground:10.0f} {own_ground:4.0f}{gains:20}"
                    verdict = "" if is_met else "missed"
                    print(f"{kind:20} {form:5} {scale:5} {detail:7} {figures} {verdict}", flush=True)
                if options.out is not None:
                    save(made, options.out / f"{kind}-{form}-x{scale}.png")
    print(f"{missed} of {count} rows are missed")


def save(pictures: list[Image.Image], path: Path) -> None:
    """Write pictures of one size side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(pictures), height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (width * index, 0))
    sheet.save(path)


if __name__ == "__main__":
    main()
