"""The mask page in a real Chromium: what is drawn is what is written, and nothing leaves the machine.

Each test starts the command as a user does, with the embedded prior. Without a Chromium the tests are skipped.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, chromium, open_browser
from PIL import Image

from restorer.folders.provenance import parse_record
from restorer.images.picture import RECORD

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium with its chromedriver is installed")

HEIGHT, WIDTH = 80, 120
SECONDS = 120.0
CONTROL, SHIFT, ENTER, ESCAPE, RIGHT, DOWN = "\ue009", "\ue008", "\ue007", "\ue00c", "\ue014", "\ue015"
Pixel = tuple[int, int]


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    """A browser with a window of a known size. At the end, nothing has been requested from elsewhere or refused."""
    shared_browser.open("about:blank")
    shared_browser.resize(1000, 700)
    shared_browser.requests(), shared_browser.errors()
    yield shared_browser
    urls = shared_browser.requests()
    assert any(url.endswith("/picture") for url in urls)
    assert not [url for url in urls if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))]
    assert not shared_browser.errors()


class Command:
    """The command, started in the current folder, and its page in a browser."""

    def __init__(self, browser: Browser, *options: str) -> None:
        self.browser = browser
        command = [sys.executable, "-m", "restorer", "mask", "img.png", "--no-browser", "--steps", "2", *options]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NO_COLOR": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload]
        assert self.process.stderr is not None
        self.address = self.process.stderr.readline().split()[-1]
        browser.open(self.address)
        browser.wait("document.body.dataset.ready")
        box = browser.run("const r = canvas.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]")
        # The whole picture is shown, 24 pixels from the edges, in the middle.
        self.scale = min((box[2] - 48) / WIDTH, (box[3] - 48) / HEIGHT)
        self.left = box[0] + (box[2] - self.scale * WIDTH) / 2
        self.top = box[1] + (box[3] - self.scale * HEIGHT) / 2
        assert 4 < self.scale < 8

    def at(self, *pixels: Pixel) -> list[tuple[float, float]]:
        """Return where the centres of pixels, given as (x, y), are in the window."""
        return [(self.left + (x + 0.5) * self.scale, self.top + (y + 0.5) * self.scale) for x, y in pixels]

    def draw(self, *pixels: Pixel, button: int = 0, kind: str = "mouse") -> None:
        self.browser.drag(*self.at(*pixels), button=button, kind=kind)

    def size(self, size: int) -> None:
        script = (
            "const e = document.getElementById('size'); e.value = arguments[0]; e.dispatchEvent(new Event('change'))"
        )
        self.browser.run(script, size)

    def marked(self) -> float:
        """Return the share that the page says is marked."""
        return float(self.browser.text("#facts").split(" · ")[1].split()[0]) / 100

    def save(self) -> np.ndarray:
        """Save the mask on the page, and return what is marked in the file."""
        self.browser.click("#save")
        self.browser.wait("document.getElementById('save').disabled")
        return read_mask()

    def end(self) -> tuple[int, str, str]:
        """Wait until the command has ended, and return its exit code and its output."""
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err


@pytest.fixture
def command(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """The command with a picture of noise."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("img.png", dpi=(240, 240))
    started = Command(browser)
    yield started
    browser.open("about:blank")
    started.process.kill()
    started.process.communicate()


def read_mask() -> np.ndarray:
    with Image.open("img_mask.png") as image:
        assert image.mode == "L" and image.size == (WIDTH, HEIGHT)
        values = np.asarray(image)
    assert set(np.unique(values)) <= {0, 255}
    return values == 255


def lines(size: int, *pixels: Pixel) -> np.ndarray:
    """What a brush of odd size marks that moves over the centres of pixels: all that is at most half its size away."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    fill = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for (ax, ay), (bx, by) in zip(pixels, pixels[1:] or pixels, strict=False):
        length = math.hypot(bx - ax, by - ay)
        along = 0 if not length else (((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length**2).clip(0, 1)
        fill |= np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)) <= size / 2 + 1e-9
    return fill


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    fill = np.zeros((HEIGHT, WIDTH), dtype=bool)
    fill[top : bottom + 1, left : right + 1] = True
    return fill


def test_from_the_brush_to_the_mask_and_the_result(command: Command, browser: Browser) -> None:
    command.size(5)
    stroke = [(20, 20), (60, 20), (60, 50), (33, 64)]
    command.draw(*stroke)
    expected = lines(5, *stroke)
    assert command.marked() == pytest.approx(expected.mean(), abs=6e-4)
    command.draw((100, 10), (100, 70))
    browser.press(CONTROL, "z")  # takes the second stroke back
    browser.click("#rectangle")
    command.draw((80, 30), (95, 45))
    expected |= rectangle(80, 30, 95, 45)
    command.draw((85, 35), (88, 38), button=2)  # the right button erases
    expected &= ~rectangle(85, 35, 88, 38)
    browser.press("e")
    command.draw((40, 20))
    expected &= ~lines(5, (40, 20))
    browser.press("b")
    ((x, y),) = command.at((10, 70))
    before = browser.text("#scale")
    browser.scroll((x, y), -400)
    assert float(browser.text("#scale").split()[0]) > 1.5 * float(before.split()[0])
    command.size(1)
    browser.drag((x, y))  # what is under the pointer stays there
    expected |= lines(1, (10, 70))
    browser.click("#undo"), browser.click("#redo")
    browser.press("0")
    assert browser.text("#scale") == before
    assert (command.save() == expected).all()

    browser.press("f")
    browser.wait("document.getElementById('text').textContent && !document.getElementById('panel').hidden")
    browser.wait("!document.getElementById('keep').hidden")
    browser.click("#keep")
    browser.wait("document.getElementById('status').textContent == 'Saved as img_inpainted.png.'")
    with Image.open("img.png") as image, Image.open("img_inpainted.png") as result:
        record = parse_record(result.text[RECORD])  # type: ignore[attr-defined]
        assert round(result.info["dpi"][0]) == 240
        changed = (np.asarray(image) != np.asarray(result)).any(-1)
    assert not changed[~expected].any() and changed[expected].mean() > 0.9
    assert record is not None and record.options["mask"] == "img_mask.png" and record.options["steps"] == 2
    assert (read_mask() == expected).all()

    browser.press(CONTROL, ENTER)
    browser.wait("!document.getElementById('ended').hidden")
    code, out, err = command.end()
    assert (code, out) == (0, "img_mask.png\n"), err
    assert f"wrote img_mask.png · 120x80 · {100 * expected.mean():.1f} % marked" in err and "Traceback" not in err


def test_shapes_and_whole_masks(command: Command, browser: Browser) -> None:
    browser.press("l")
    corners = [(10, 10), (50, 10), (50, 40), (30, 25), (10, 40)]
    command.draw(*corners)
    browser.click("#invert")
    inverted = command.save()
    browser.press("i")
    fill = command.save()
    assert (fill == ~inverted).all()
    inside = rectangle(11, 11, 49, 24)  # without the pixels through whose centres the outline goes
    assert fill[inside].all() and not fill[~rectangle(10, 10, 50, 40)].any() and not fill[33:, 30].any()
    assert fill.sum() == pytest.approx(40 * 30 - 40 * 15 / 2, rel=0.05)  # a rectangle less a triangle
    browser.press("\ue017")  # Delete
    assert command.marked() == 0
    browser.press(CONTROL, "z")
    assert (command.save() == fill).all()


def test_fingers_draw_move_and_magnify(command: Command, browser: Browser) -> None:
    command.size(7)
    command.draw((30, 30), (50, 30), kind="touch")
    before = browser.text("#scale")
    near, far = [(45, 30), (55, 30)], [(25, 30), (75, 30)]
    (a, b), (c, d) = command.at(*near), command.at(*far)
    browser.pinch([a, c], [b, d])  # two fingers that move apart
    assert float(browser.text("#scale").split()[0]) == pytest.approx(5 * float(before.split()[0]), rel=0.05)
    assert (command.save() == lines(7, (30, 30), (50, 30))).all()  # and draw nothing


def test_keys_draw_without_a_pointer(command: Command, browser: Browser) -> None:
    command.size(3)
    browser.press("k")
    browser.press(ENTER)
    for _ in range(5):
        browser.press(RIGHT)  # half the size, rounded up: 2 pixels
    browser.press(SHIFT, DOWN)  # 1 pixel
    browser.press(ENTER)
    fill = command.save()
    middle = (WIDTH // 2, HEIGHT // 2)
    assert (fill == lines(3, middle, (middle[0] + 10, middle[1]), (middle[0] + 10, middle[1] + 1))).all()
    browser.press(ENTER)
    browser.press(RIGHT)
    browser.press(ESCAPE)  # takes the stroke back
    assert browser.run("return document.getElementById('save').disabled")


def test_it_ends_when_the_page_is_left(command: Command, browser: Browser) -> None:
    command.draw((10, 10), (20, 20))
    browser.open("about:blank")  # the question whether to leave is accepted
    code, out, err = command.end()
    assert code == 130 and not out and "note: the page was closed before a mask was saved" in err
    assert sorted(path.name for path in Path().iterdir()) == ["img.png"]


def is_whole_png(path: Path) -> bool:
    """Return whether a browser has written a PNG file to its end."""
    return path.exists() and path.read_bytes().endswith(b"IEND\xaeB`\x82")


def test_what_was_drawn_survives_the_program(command: Command, browser: Browser, tmp_path: Path) -> None:
    browser.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    command.size(5)
    command.draw((20, 20), (60, 20))
    command.process.terminate()
    assert command.end()[0] == 143 and not Path("img_mask.png").exists()
    browser.wait("!document.getElementById('download').hidden && !document.getElementById('ended').hidden")
    browser.errors()  # the connection that broke
    browser.click("#download")
    end = time.monotonic() + SECONDS
    while not is_whole_png(Path("img_mask.png")):
        assert time.monotonic() < end
        time.sleep(0.1)
    with Image.open("img_mask.png") as image:
        assert ((np.asarray(image.convert("L")) == 255) == lines(5, (20, 20), (60, 20))).all()
