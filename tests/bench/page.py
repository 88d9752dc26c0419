"""Make the screenshot of the mask page in the documentation, in a real Chromium.

python tests/bench/page.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from chromium import open_browser

IMAGES = Path(__file__).parents[1] / "images"
SIZE = 1000, 640
STROKES = (
    [(350, 385), (366, 364), (408, 366)],
    [(505, 334), (530, 345)],
    [(772, 382)],
    [(560, 396), (630, 446), (690, 478)],
)


def main() -> None:
    """Draw some strokes on a photograph, and save what the page looks like."""
    with tempfile.TemporaryDirectory() as folder, open_browser(Path(folder)) as browser:
        command = [sys.executable, "-m", "restorer", "mask", IMAGES / "grapes.jpg", "--no-browser"]
        options = ["-o", Path(folder) / "mask.png"]
        with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            browser.resize(*SIZE)
            browser.open(process.stderr.readline().split()[-1])
            browser.wait("document.body.dataset.ready")
            for stroke in STROKES:
                browser.drag(*stroke)
            shot = Path(folder) / "shot.png"
            browser.screenshot(shot)
            process.terminate()
        with Image.open(shot) as image:
            image.convert("RGB").save(IMAGES / "mask-page.jpg", quality=85)


if __name__ == "__main__":
    main()
