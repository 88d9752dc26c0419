"""The page of `restore compare --html` in a real Chromium: every pixel is right, and nothing is requested.

The pages are opened as files. Without a Chromium the tests are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, chromium, open_browser
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from restorer.cli.app import run
from restorer.evaluation.map_overlay import COLOURS, OPACITY
from restorer.folders.provenance import Record
from restorer.images.picture import RECORD
from restorer.images.uncertainty_map import encode_map

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium with its chromedriver is installed")

HEIGHT, WIDTH = 60, 100
ESCAPE, RIGHT, DOWN = "\ue00c", "\ue014", "\ue015"
HOSTILE = "<img src=x onerror=document.title='run'>&amp;.png"
Point = tuple[float, float]


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    """A browser with a window of a known size. At the end, only files have been requested, and nothing was refused."""
    monkeypatch.chdir(tmp_path)
    shared_browser.open("about:blank")
    shared_browser.resize(1000, 700)
    shared_browser.requests(), shared_browser.errors()
    yield shared_browser
    urls = shared_browser.requests()
    assert urls and not [url for url in urls if not url.startswith(("file:", "data:", "about:"))]
    assert not shared_browser.errors()


def colours(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def write(path: str, pixels: np.ndarray, record: Record | None = None) -> str:
    texts = PngInfo()
    if record is not None:
        texts.add_text(RECORD, record.to_json())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, pnginfo=texts)
    return path


def open_page(browser: Browser, *arguments: str, code: int = 0) -> None:
    assert run(["compare", *arguments, "--html", "report.html", "-q"]) == code
    browser.open(Path("report.html").absolute().as_uri())


def state(browser: Browser) -> dict[str, float]:
    """Return where the view is: scale, x, y, divider, and the box of the canvas."""
    script = """
        const {left, top, width, height} = canvas.getBoundingClientRect(), {scale, x, y, divider} = view;
        return {left, top, width, height, scale, x, y, divider};
    """
    return browser.run(script)


def place(browser: Browser, x: float, y: float, panel: int = 0) -> Point:
    """Return where the centre of a pixel is in a panel, in pixels of the canvas."""
    now, box = state(browser), browser.run("return view.panels()[arguments[0]]", panel)
    return (
        box["x"] + box["width"] / 2 + (x + 0.5 - now["x"]) * now["scale"],
        box["y"] + box["height"] / 2 + (y + 0.5 - now["y"]) * now["scale"],
    )


def pixels(browser: Browser, x: int, y: int, width: int = 1, height: int = 1) -> np.ndarray:
    """Return what is drawn in a rectangle of the canvas, (N, 3)."""
    script = """
        view.drawNow();
        const context = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", {willReadFrequently: true});
        context.drawImage(canvas, 0, 0);
        return [...context.getImageData(...arguments).data];
    """
    return np.array(browser.run(script, x, y, width, height)).reshape(-1, 4)[:, :3]


def drawn(browser: Browser, x: int, y: int, panel: int = 0) -> list[int]:
    """Return the colour that is drawn at the centre of a pixel of the picture."""
    left, top = map(math.floor, place(browser, x, y, panel))
    return pixels(browser, left, top)[0].tolist()


def test_slider_zoom_side_by_side_and_difference(browser: Browser) -> None:
    a, b, truth = colours(0), colours(1), colours(2)
    open_page(browser, write("a.png", a), write("b.png", b), write("r.png", truth))
    browser.wait("document.body.dataset.ready")
    left, right = (20, 30), (80, 30)  # pixels on both sides of the line
    assert drawn(browser, *left) == a[30, 20].tolist() and drawn(browser, *right) == b[30, 80].tolist()

    # the line follows the mouse, fingers, keys and the range below
    now = state(browser)
    middle = (now["left"] + now["width"] / 2, now["top"] + 200)
    browser.drag(middle, (middle[0] - 0.45 * now["width"], middle[1]))
    assert state(browser)["divider"] == pytest.approx(0.05, abs=0.01)
    assert drawn(browser, *left) == b[30, 20].tolist()
    start = now["left"] + state(browser)["divider"] * now["width"]
    browser.drag((start, middle[1]), (now["left"] + 0.9 * now["width"], middle[1]), kind="touch")
    assert state(browser)["divider"] == pytest.approx(0.9, abs=0.01)
    assert drawn(browser, *right) == a[30, 80].tolist()
    browser.press("["), browser.press("[")
    assert state(browser)["divider"] == pytest.approx(0.8, abs=0.01)
    assert float(browser.run("return divider.value")) == pytest.approx(80, abs=1)
    browser.run("divider.value = 50; divider.dispatchEvent(new Event('input'))")
    assert state(browser)["divider"] == 0.5

    # what is under the pointer stays there, and enlarged pixels are squares of one colour
    point = place(browser, 70, 20)
    browser.scroll((point[0] + now["left"], point[1] + now["top"]), -500)
    assert place(browser, 70, 20) == pytest.approx(point, abs=1) and state(browser)["scale"] > 2 * now["scale"]
    x, y = (math.floor(value) for value in place(browser, 70, 20))
    half = math.floor(state(browser)["scale"] / 2) - 1
    assert half >= 5 and (pixels(browser, x - half, y - half, 2 * half, 2 * half) == b[20, 70]).all()

    # 1:1, the arrows, fit, and two fingers
    browser.click("#original")
    assert state(browser)["scale"] == 1 and browser.text("#scale") == "100 %"
    before = state(browser)
    browser.press(RIGHT), browser.press(DOWN)
    after = state(browser)
    assert (after["x"] - before["x"], after["y"] - before["y"]) == (min(48, WIDTH - before["x"]), HEIGHT - before["y"])
    browser.click("#fit")
    assert state(browser) == now
    top = now["top"] + 100
    browser.pinch([(300, top), (250, top)], [(340, top), (390, top)])
    assert state(browser)["scale"] == pytest.approx(now["scale"] * 140 / 40, rel=0.05)
    browser.press("0")

    # all three pictures in step
    browser.click("#side")
    browser.press("+")
    for panel, expected in enumerate((a, b, truth)):
        assert drawn(browser, 50, 30, panel) == expected[30, 50].tolist()
    browser.press("0")

    # the difference of the chosen two, amplified
    browser.press("d")
    expected = np.abs(a.astype(int) - b).clip(0, 51) * 5
    assert drawn(browser, 40, 10) == expected[10, 40].tolist() and browser.text("#amplification") == "x 5"
    browser.run("factor.value = 1; factor.dispatchEvent(new Event('input'))")  # a power of two
    browser.click("#choice button:last-child")
    assert drawn(browser, 40, 10) == (2 * np.abs(truth.astype(int) - b)).clip(0, 255)[10, 40].tolist()


def test_transparent_pictures_and_records(browser: Browser) -> None:
    """Nothing of a hostile name or record runs; what both pictures hide is no difference, and opacity is one."""
    rgba = np.dstack([colours(0), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    rgba[:, :50, 3] = 0
    other = rgba.copy()
    other[:, :50, :3] ^= 255  # hidden
    other[:, 90:, 3] = 0
    record = Record("1", "denoise", HOSTILE, "0", "photo", "0", {"seed": 0})
    browser.resize(1300, 700)
    open_page(browser, write("a.png", rgba), write(HOSTILE, other, record))
    browser.wait("document.body.dataset.ready")
    assert drawn(browser, 10, 10) in ([204] * 3, [153] * 3)  # the checkers
    browser.click("#difference")
    assert [drawn(browser, x, 10) for x in (10, 70, 95)] == [[0] * 3, [0] * 3, [255] * 3]
    assert browser.run("return document.title") == f"a.png and {HOSTILE}"
    assert not browser.run("return document.querySelectorAll('#details img, #name img').length")
    assert browser.text("#details code") == record.command_line() and HOSTILE in browser.text("#details dl")
    assert browser.run("return details.hidden") is False
    browser.click("#info")
    assert browser.run("return details.hidden") is True


def test_a_gallery(browser: Browser) -> None:
    clean = colours(0)
    noise = np.random.default_rng(1).normal(0, 1, clean.shape)
    for name, strength in (("x", 20), ("y", 40), (HOSTILE[:-4], 5)):
        write(f"a/{name}.png", clean)
        write(f"b/{name}.png", (clean + strength * noise).clip(0, 255).astype(np.uint8))
    write("a/same.png", clean), write("b/same.png", clean)
    open_page(browser, "a", "b")

    def names() -> list[str]:
        return browser.run("return [...document.querySelectorAll('.card h2')].map((e) => e.textContent)")

    def sort(value: str) -> None:
        script = (
            "const e = document.getElementById('sort'); e.value = arguments[0]; e.dispatchEvent(new Event('change'))"
        )
        browser.run(script, value)

    assert names() == [HOSTILE, "same.png", "x.png", "y.png"] and browser.text("#title") == "a and b"
    sort("low")
    assert names() == ["y.png", "x.png", HOSTILE, "same.png"]
    sort("high")
    assert names() == ["same.png", HOSTILE, "x.png", "y.png"]
    browser.wait("[...document.images].every((image) => image.complete && image.naturalWidth == 100)")
    browser.click("#card-2")
    browser.wait("document.body.dataset.ready == '2'")
    assert browser.text("#name") == "x.png" and browser.text("#position") == "3 of 4"
    assert browser.text("#figures") == f"B to A: {browser.text('#card-2 .facts')}"
    browser.press("n")
    browser.wait("document.body.dataset.ready == '3'")
    assert browser.text("#name") == "y.png" and browser.run("return next.disabled")
    browser.press(ESCAPE)
    browser.wait("!gallery.hidden && viewer.hidden")
    assert browser.run("return document.activeElement.id") == "card-3"
    browser.run("history.back()")
    browser.wait("document.body.dataset.ready == '3' && gallery.hidden")


def test_the_map_of_the_uncertainty(browser: Browser) -> None:
    """The map lies over its result in the colours of its bands, more or less opaque; what is known stays bare."""
    a, b = colours(0), colours(1)
    half = np.repeat([[0, 0.5, 3, 90]], HEIGHT, 0).repeat(WIDTH // 4, 1)
    Path("m.png").write_bytes(encode_map(half, 0.9, calibrated=True, kind="denoise"))
    open_page(browser, write("a.png", a), write("b.png", b), write("r.png", b), "--uncertainty", "m.png")
    browser.wait("document.body.dataset.ready")
    assert browser.run("return legend.hidden")
    browser.press("u")
    assert not browser.run("return legend.hidden || document.getElementById('opacity-field').hidden")
    assert browser.run("return document.getElementById('choice').hidden")

    def expected(x: int, band: int, opacity: float) -> np.ndarray:
        colour = np.array([int(COLOURS[band][i : i + 2], 16) for i in (1, 3, 5)])
        return (1 - opacity) * b[20, x].astype(float) + opacity * colour

    assert drawn(browser, 10, 20) == b[20, 10].tolist()
    for x, band in ((30, 0), (60, 2), (90, 6)):
        assert np.abs(np.array(drawn(browser, x, 20)) - expected(x, band, OPACITY)).max() < 2
    script = "const e = document.getElementById('opacity'); e.value = 100; e.dispatchEvent(new Event('input'))"
    browser.run(script)
    assert drawn(browser, 60, 20) == [int(COLOURS[2][i : i + 2], 16) for i in (1, 3, 5)]

    # the legend and the pixel under the pointer
    bands = browser.run("return [...document.querySelectorAll('#bands li')].map((e) => e.textContent)")
    assert bands == [
        "up to 133 %",
        "1 to 20 %",
        "2 to 533 %",
        *(f"{x}0 %" for x in ("5 to 10", "10 to 20", "20 to 50")),
    ] + ["over 5033 %"]
    now = state(browser)
    for x, text in ((60, "here: ± 3.0 levels"), (90, "here: ± 90 levels"), (10, "here: the input itself")):
        left, top = place(browser, x, 20)
        browser.drag((now["left"] + left, now["top"] + top))
        assert browser.text("#here").replace("89", "90").replace("91", "90") == text
    assert "90 % intervals · calibrated for denoise" in browser.text("#details")
    browser.press("s")
    assert browser.run("return legend.hidden") and drawn(browser, 20, 30) == a[30, 20].tolist()


def test_maps_in_a_gallery(browser: Browser) -> None:
    """Pairs are sorted by their uncertainty, and a pair without a map leaves the view of maps."""
    for name, levels in (("x", 2), ("y", 30), ("z", None)):
        write(f"a/{name}.png", colours(0))
        write(f"b/{name}.png", colours(1))
        if levels is not None:
            Path("maps").mkdir(exist_ok=True)
            Path(f"maps/{name}.png").write_bytes(encode_map(np.full((HEIGHT, WIDTH), levels), 0.9, calibrated=True))
    open_page(browser, "a", "b", "--uncertainty", "maps")
    browser.run("const e = document.getElementById('sort'); e.value = 'doubt'; e.dispatchEvent(new Event('change'))")
    names = browser.run("return [...document.querySelectorAll('.card h2')].map((e) => e.textContent)")
    assert names == ["y.png", "x.png", "z.png"]
    browser.click("#card-1")
    browser.wait("document.body.dataset.ready == '1'")
    browser.press("u")
    assert browser.run("return view.mode") == "uncertainty"
    browser.press("n")
    browser.wait("document.body.dataset.ready == '0'")
    assert browser.run("return view.mode") == "uncertainty"
    browser.press("n")
    browser.wait("document.body.dataset.ready == '2'")
    assert browser.run("return view.mode") == "slider"
    browser.press("u")
    assert browser.run("return view.mode") == "slider"
