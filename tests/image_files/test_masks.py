"""Masks are understood as their authors meant them, or refused."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageDraw, ImageFilter
from stubs import Smooth

from restorer import inpaint
from restorer.errors import UsageError
from restorer.images.files import Picture, alpha_mask, from_pil, load, load_mask, with_result
from restorer.images.masks import fit_mask, grow

SIZE = (96, 128)


def encode(image: Image.Image, format: str, **options: object) -> io.BytesIO:
    """Return an image as a file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    buffer.seek(0)
    return buffer


def photograph(seed: int = 0) -> Image.Image:
    """Return a picture of many colours."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(SIZE[::-1], Image.Resampling.BICUBIC), dtype=np.int64)
    return Image.fromarray((smooth + rng.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8))


def holes() -> np.ndarray:
    """Return a blob, a stroke and a dot, bool (H, W)."""
    image = Image.new("1", SIZE[::-1])
    drawing = ImageDraw.Draw(image)
    drawing.ellipse((20, 15, 50, 40), fill=1)
    drawing.line((60, 80, 120, 20), fill=1, width=4)
    drawing.rectangle((90, 70, 92, 72), fill=1)
    return np.array(image)


HOLES = holes()


def painted(hole: object, background: object, fill: np.ndarray = HOLES, dtype: type = np.uint8) -> Image.Image:
    """Return a drawing of holes in one colour on another."""
    colours = np.array([background, hole], dtype=dtype)
    return Image.fromarray(colours[fill.astype(int)])


def palette(hole: int, background: int) -> Image.Image:
    """Return an index of two colours, as the annotations of segmentation datasets are."""
    image = Image.fromarray(HOLES.astype(np.uint8)).convert("P")
    image.putpalette([background] * 3 + [hole, 0, 0] + [0] * 750)
    return image


def erased(value: int = 0, seed: int = 0) -> Image.Image:
    """Return the picture with its holes erased; what was there is hidden, and has the given value."""
    pixels = np.asarray(photograph(seed)).copy()
    pixels[HOLES] = value
    return Image.fromarray(np.dstack([pixels, np.where(HOLES, 0, 255).astype(np.uint8)]))


def painted_over(colour: tuple[int, int, int]) -> Image.Image:
    """Return a copy of the picture with holes of one colour."""
    pixels = np.asarray(photograph()).copy()
    pixels[HOLES] = colour
    return Image.fromarray(pixels)


EXACT: dict[str, Callable[[], Image.Image]] = {
    "white on black": lambda: painted(255, 0),
    "one bit": lambda: Image.fromarray(HOLES),
    "ones of 255": lambda: painted(1, 0),
    "255 of 65535": lambda: painted(255, 0, dtype=np.uint16),
    "white of 16 bits": lambda: painted(65535, 0, dtype=np.uint16),
    "floats": lambda: painted(1, 0, dtype=np.float32),
    "two grays": lambda: painted(200, 90),
    "red on black": lambda: painted((255, 0, 0), (0, 0, 0)),
    "blue on white": lambda: painted((20, 40, 230), (255, 255, 255)),
    "white on green": lambda: painted((255, 255, 255), (0, 160, 60)),
    "red on green": lambda: painted((255, 0, 0), (0, 128, 0)),
    "magenta on gray": lambda: painted((255, 0, 255), (128, 128, 128)),
    "palette": lambda: palette(128, 0),
    "white strokes on transparency": lambda: painted((255, 255, 255, 255), (0, 0, 0, 0)),
    "black strokes on transparency": lambda: painted((0, 0, 0, 255), (255, 255, 255, 0)),
    "half-covering red strokes": lambda: painted((255, 0, 0, 127), (0, 0, 0, 0)),
    "white, but hidden": lambda: painted((255, 255, 255, 255), (255, 255, 255, 0)),
    "a black layer with holes": lambda: painted((0, 0, 0, 0), (0, 0, 0, 255)),
    "opaque white on black": lambda: painted((255, 255, 255, 255), (0, 0, 0, 255)),
    "the picture, erased": erased,
    "the picture, erased to white": lambda: erased(255),
    "another picture, erased": lambda: erased(seed=3),
    "gray with alpha": lambda: painted((255, 255), (0, 0)),
}


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_mask_of_two_values_is_taken_exactly(kind: str, format: str) -> None:
    if (kind, format) == ("floats", "PNG"):
        pytest.skip("PNG holds no floats")
    mask = encode(EXACT[kind](), format)
    fill, note = load_mask(mask, SIZE, picture=from_pil(photograph()))
    np.testing.assert_array_equal(fill, HOLES)
    assert "soft" not in note and "grown" not in note
    mask.seek(0)
    np.testing.assert_array_equal(load_mask(mask, SIZE, invert=True, picture=from_pil(photograph())).fill, ~HOLES)
    mask.seek(0)
    np.testing.assert_array_equal(load_mask(mask, SIZE).fill, HOLES)  # the picture is not needed to understand it


def soft(radius: float) -> np.ndarray:
    """Return holes with soft edges, 0..1."""
    image = Image.fromarray((HOLES * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float64) / 255


def mixed(hole: tuple[int, ...], background: tuple[int, ...], radius: float = 1.0) -> Image.Image:
    """Return a drawing whose edges blend two colours."""
    share = soft(radius)[..., None]
    return Image.fromarray(np.rint(share * hole + (1 - share) * background).astype(np.uint8))


SOFT: dict[str, Callable[[], Image.Image]] = {
    "gray": lambda: Image.fromarray(np.rint(soft(1) * 255).astype(np.uint8)),
    "gray, wide": lambda: Image.fromarray(np.rint(soft(4) * 255).astype(np.uint8)),
    "16 bits": lambda: Image.fromarray(np.rint(soft(1) * 65535).astype(np.uint16)),
    "8 bits stored in 16": lambda: Image.fromarray(np.rint(soft(1) * 255).astype(np.uint16)),
    "red on black": lambda: mixed((255, 0, 0), (0, 0, 0)),
    "red on white": lambda: mixed((255, 0, 0), (255, 255, 255)),
    "white strokes": lambda: mixed((255, 255, 255, 255), (255, 255, 255, 0)),
    "green strokes": lambda: mixed((0, 200, 80, 255), (0, 200, 80, 0)),
    "the picture, softly erased": lambda: Image.fromarray(
        np.dstack([np.asarray(photograph()), np.rint(255 * (1 - soft(1))).astype(np.uint8)])
    ),
    "painted over in pink": lambda: painted_over((255, 20, 190)),
}


@pytest.mark.parametrize("kind", SOFT)
def test_whatever_a_soft_mask_touches_is_filled(kind: str) -> None:
    fill, note = load_mask(encode(SOFT[kind](), "PNG"), SIZE, picture=from_pil(photograph()))
    certain = soft(4 if "wide" in kind else 1)
    if "over" in kind:
        certain = HOLES.astype(float)
    assert fill[certain > 0.04].all()
    assert not fill[~grow(certain > 0, 2)].any()
    assert "soft" in note


@pytest.mark.parametrize("quality", [30, 60, 90])
@pytest.mark.parametrize("colours", [(255, 0), (0, 255), ((255, 0, 0), (0, 0, 0)), ((255, 0, 0), (255, 255, 255))])
def test_a_mask_in_a_jpeg(quality: int, colours: tuple[object, object]) -> None:
    hole, background = colours
    # black is not a hole by convention, so black on white needs the option
    fill, _ = load_mask(encode(painted(hole, background), "JPEG", quality=quality), SIZE, invert=background == 255)
    assert fill[HOLES].mean() > 0.98
    assert not fill[~grow(HOLES, 9)].any() and fill[~grow(HOLES, 3)].mean() < 0.02


def test_a_mask_that_is_a_copy_in_a_jpeg_shows_what_was_painted_over() -> None:
    picture = load(encode(photograph(), "JPEG", quality=90))
    over = Image.fromarray(np.where(HOLES[..., None], np.uint8([255, 20, 190]), picture.pixels).astype(np.uint8))
    fill, _ = load_mask(encode(over, "JPEG", quality=92), SIZE, picture=picture)
    assert fill[HOLES].mean() > 0.97 and fill[~grow(HOLES, 9)].mean() < 0.01


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("hole", [0, 255, None])
def test_a_copy_of_a_dark_picture_shows_what_was_erased_or_painted_over(mode: str, hole: int | None) -> None:
    dark = np.rint(np.asarray(photograph().convert(mode).convert("RGB")) * 0.4).astype(np.uint8)
    over = np.where(HOLES[..., None], dark if hole is None else np.uint8(hole), dark)
    erased_copy = np.dstack([over, np.where(HOLES, 0, 255).astype(np.uint8)])
    copies = [erased_copy] if hole in (0, None) else [erased_copy, over]
    for copy in copies:
        mask = encode(Image.fromarray(copy), "PNG")
        fill = load_mask(mask, SIZE, picture=from_pil(Image.fromarray(dark))).fill
        np.testing.assert_array_equal(fill, HOLES)


def test_labels_of_several_objects_are_all_filled() -> None:
    labels = HOLES.astype(np.uint8)
    labels[60:80, 5:30] = 7
    labels[80:90, 5:30] = 200
    for image in (Image.fromarray(labels), Image.fromarray(labels).convert("P")):
        np.testing.assert_array_equal(load_mask(encode(image, "PNG"), SIZE).fill, labels > 0)


@pytest.mark.parametrize(
    "image",
    [photograph(5), photograph(5).convert("L"), Image.new("L", SIZE[::-1], 128), Image.new("RGB", SIZE[::-1], "red")],
)
def test_a_mask_that_says_nothing_is_refused(image: Image.Image) -> None:
    with pytest.raises(UsageError, match="nothing in it tells where the holes are"):
        load_mask(encode(image, "PNG"), SIZE, picture=from_pil(photograph()))


def test_black_is_empty_and_white_is_everything() -> None:
    for value in (0, 255):
        fill, note = load_mask(encode(Image.new("L", SIZE[::-1], value), "PNG"), SIZE)
        assert fill.all() == fill.any() == bool(value) and note == ""
        mask = encode(Image.new("L", SIZE[::-1], value), "JPEG")
        assert load_mask(mask, SIZE, invert=True).fill.all() == (not value)


def test_the_note_names_colours() -> None:
    assert load_mask(encode(painted(255, 0), "PNG"), SIZE).note == ""
    note = load_mask(encode(painted((255, 0, 0), (0, 0, 0)), "PNG"), SIZE).note
    assert note == "the mask is black with #ff0000: what is not black is filled"
    assert "erased is filled" in load_mask(encode(erased(), "PNG"), SIZE).note


def test_orientation() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = encode(Image.fromarray(np.array([[255, 0]], dtype=np.uint8)), "PNG", exif=exif)
    assert load_mask(turned, (2, 1)).fill.tolist() == [[True], [False]]


def test_growth() -> None:
    dot = np.zeros((9, 11), bool)
    dot[4, 5] = True
    down, across = np.mgrid[:9, :11]
    for radius in (0, 1, 2, 3, 20):
        expected = (down - 4) ** 2 + (across - 5) ** 2 <= radius**2
        np.testing.assert_array_equal(grow(dot, radius), expected)
    corner = np.zeros((4, 4), bool)
    corner[0, 3] = True
    assert grow(corner, 1).sum() == 3
    mask = from_pil(painted(255, 0))
    fill, note = fit_mask(mask, SIZE, margin=3)
    np.testing.assert_array_equal(fill, grow(HOLES, 3))
    assert "grown by 3 pixels" in note


def test_soft_edges_in_a_compressed_picture_have_a_margin() -> None:
    picture = load(encode(photograph(), "JPEG"))
    soft_mask, hard_mask = encode(SOFT["gray"](), "PNG"), encode(painted(255, 0), "PNG")
    plain = load_mask(soft_mask, SIZE).fill
    soft_mask.seek(0)
    found = load_mask(soft_mask, SIZE, picture=picture)
    np.testing.assert_array_equal(found.fill, grow(plain, 1))
    assert "grown by 1 pixel, because colours leak" in found.note
    soft_mask.seek(0)
    np.testing.assert_array_equal(load_mask(soft_mask, SIZE, picture=picture, margin=0).fill, plain)
    np.testing.assert_array_equal(load_mask(hard_mask, SIZE, picture=picture).fill, HOLES)


def test_own_transparency() -> None:
    picture = load(encode(erased(), "PNG"))
    fill, note = alpha_mask(picture)
    np.testing.assert_array_equal(fill, HOLES)
    assert note == ""
    np.testing.assert_array_equal(alpha_mask(picture, invert=True).fill, ~HOLES)
    empty = alpha_mask(from_pil(photograph()))
    assert not empty.fill.any() and "no transparency" in empty.note


def test_filled_transparency_becomes_opaque() -> None:
    picture = load(encode(erased(), "PNG"))
    result = with_result(picture, torch.full((3, *SIZE), 0.5), ~HOLES, reveal=True)
    assert result.alpha is None and (result.pixels[HOLES] == 128).all()
    np.testing.assert_array_equal(result.pixels[~HOLES], picture.pixels[~HOLES])
    part = HOLES.copy()
    part[:50] = False
    partly = with_result(picture, torch.full((3, *SIZE), 0.5), ~part, reveal=True)
    assert partly.alpha is not None
    np.testing.assert_array_equal(partly.alpha == 255, ~HOLES | part)


def test_python_understands_masks_in_the_same_way(tmp_path: Path) -> None:
    picture, prior = photograph(), Smooth()
    white = inpaint(picture, painted(255, 0), prior=prior, steps=2)
    assert np.array_equal(np.asarray(white)[~HOLES], np.asarray(picture)[~HOLES])
    erased().save(tmp_path / "erased.png")
    for mask in (
        painted((255, 0, 0), (0, 0, 0)),
        erased(),
        HOLES,
        tmp_path / "erased.png",
        str(tmp_path / "erased.png"),
    ):
        np.testing.assert_array_equal(np.asarray(inpaint(picture, mask, prior=prior, steps=2)), np.asarray(white))
    grown = np.asarray(inpaint(picture, HOLES, prior=prior, steps=2, grow=2))
    changed = (grown != np.asarray(picture)).any(-1)
    assert not changed[~grow(HOLES, 2)].any() and changed[grow(HOLES, 2) & ~HOLES].mean() > 0.5
    with pytest.raises(UsageError, match="grow must lie between"):
        inpaint(picture, HOLES, grow=-1)


def test_keep_is_needed_to_reveal() -> None:
    picture = Picture(np.zeros((2, 2, 3), np.uint8), alpha=np.zeros((2, 2), np.uint8))
    assert with_result(picture, torch.ones(3, 2, 2), reveal=True).alpha is not None
