"""The page of `restore compare --html`: what it holds, that it requests nothing, and when it is written."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from restorer.cli.app import run
from restorer.cli.report_page.content import Report, display_names
from restorer.cli.report_page.page import page, save_page
from restorer.cli.report_page.pictures import MIN_SIDE, THUMBNAIL_SIDES, browser_image, embed, embed_thumbnails
from restorer.errors import OutputError
from restorer.evaluation.compare import colour_of, differences
from restorer.folders.provenance import Record, parse_record
from restorer.images.files import load
from restorer.images.picture import RECORD, Picture

HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=alert(1)>&amp;\u2028"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: str, pixels: np.ndarray, record: Record | None = None) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    texts = PngInfo()
    if record is not None:
        texts.add_text(RECORD, record.to_json())
    Image.fromarray(pixels).save(target, **({"pnginfo": texts} if target.suffix == ".png" else {}))
    return target


class Parsed(HTMLParser):
    """The elements of a page, and the texts of those that are not shown as they are."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.elements[-1][0], data))

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def content_of(text: str) -> dict[str, Any]:
    (content,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL)
    return json.loads(content)


def pixels_of(url: str) -> tuple[str, np.ndarray]:
    """Return the format and the pixels of a data URL."""
    kind, data = url.removeprefix("data:image/").split(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return kind, np.asarray(image)


def report_of(*paths: Path, name: str = "pair", **options: Any) -> Report:
    report = Report(name, **options)
    pictures = [load(path) for path in paths]
    colours = [colour_of(picture) for picture in pictures]
    report.add(name, paths, pictures, differences(colours[0], colours[1], *colours[2:]))
    return report


# ------------------------------------------------------------------------------------------------------- the document


def test_nothing_is_requested_and_nothing_else_runs() -> None:
    """The policy allows one style and one script by their hashes, and every address on the page is a data URL."""
    text = page(report_of(write("a.png", noise(20, 30, 3)), write("b.png", noise(20, 30, 3, seed=1))))
    parsed = Parsed(text)
    (policy,) = [m["content"] for m in parsed.attributes("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'" and rules["img-src"] == "data:"
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    for name, code in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    addresses = [a[key] for _, a in parsed.elements for key in ("src", "href", "srcset", "data", "action") if key in a]
    assert all(address is not None and re.match(r"data:|#", address) for address in addresses)
    assert not re.search(
        r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(|https?://(?!www\.w3\.org/2000/svg)", text
    )
    assert not [a for _, a in parsed.elements if any(key.startswith("on") or key == "style" for key in a)]


def test_names_and_records_stay_text() -> None:
    """A hostile name and a hostile record add no element to the page, and arrive as they are."""
    record = Record("1", "denoise", HOSTILE, "0", HOSTILE, "0", {HOSTILE: HOSTILE})
    paths = write("a.png", noise(8, 8, 3)), write("b.png", noise(8, 8, 3, seed=1), record)
    plain, hostile = page(report_of(*paths)), page(report_of(*paths, name=HOSTILE))
    assert [tag for tag, _ in Parsed(plain).elements] == [tag for tag, _ in Parsed(hostile).elements]
    shown = HOSTILE.replace("\u2028", "\\u2028")
    assert Parsed(hostile).text_of("title") == [shown]
    (pair,) = content_of(hostile)["pairs"]
    assert pair["name"] == shown and ["source", shown] in pair["pictures"][1]["record"]["rows"]
    assert pair["pictures"][0]["record"] is None


def test_placeholders_in_texts_stay_text() -> None:
    report = report_of(write("a.png", noise(8, 8, 3)), write("b.png", noise(8, 8, 3)), name="{{script}} {{content}}")
    assert content_of(page(report))["title"] == "{{script}} {{content}}"


def test_the_record_and_the_command_that_makes_it_again() -> None:
    record = Record("1.2", "denoise", "my scan.png", "ab", "photo", "cd", {"sigma": 25.0, "seed": 3}, threads=2)
    report = report_of(write("a.png", noise(8, 8, 3)), write("b.png", noise(8, 8, 3), record))
    shown = report.pairs[0]["pictures"][1]["record"]
    stored = parse_record(record.to_json())
    assert stored is not None and shown["command"] == stored.command_line()
    assert "OMP_NUM_THREADS=2 restore denoise 'my scan.png' --seed 3 --sigma 25.0" in shown["command"]
    assert ["source sha256", "ab"] in shown["rows"] and ["computed", "on cpu in fp32 with 2 threads"] in shown["rows"]


# --------------------------------------------------------------------------------------------------------- the figures


def test_the_figures_are_those_that_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for k, name in enumerate("abr"):
        write(f"{name}.png", noise(20, 30, 3, seed=k))
    for references in ([], ["r.png"]):
        assert run(["compare", "a.png", "b.png", *references, "--html", "report.html", "--overwrite"]) == 0
        printed = capsys.readouterr().err.splitlines()
        text = Path("report.html").read_text(encoding="utf-8")
        assert Parsed(text).text_of("li") == printed[:-1] and "wrote report.html" in printed[-1]
        (pair,) = content_of(text)["pairs"]
        assert [figure["of"] for figure in pair["figures"]] == (["A", "B"] if references else ["B"])
        for figure, line in zip(pair["figures"], printed, strict=False):
            assert line.split(": ", 1)[1].startswith(
                f"{figure['psnr']}, SSIM {figure['ssim']}, off by {figure['mean']} "
            )
            assert f", {figure['largest']} at most" in line and figure["short"] in line
            a = np.asarray(Image.open(f"{figure['of'].lower()}.png")).astype(float)
            b = np.asarray(Image.open("r.png" if references else "a.png")).astype(float)
            psnr = 10 * math.log10(255**2 / ((a - b) ** 2).mean())
            assert figure["value"] == pytest.approx(psnr, abs=1e-3)


def test_equal_pictures_are_called_equal() -> None:
    path = write("a.png", noise(20, 30, 3))
    (figure,) = report_of(path, path).pairs[0]["figures"]
    assert figure["psnr"] == figure["short"] == "equal" and figure["value"] is None and figure["ssim"] == "1.0000"


# -------------------------------------------------------------------------------------------------------- the pictures


def test_pictures_are_embedded_exactly() -> None:
    pixels = [noise(20, 30, 3), noise(20, 30, 4, seed=1), noise(20, 30, seed=2)]
    report = report_of(*(write(f"{k}.png", x) for k, x in enumerate(pixels)))
    (pair,) = report.pairs
    for picture, expected in zip(pair["pictures"], pixels, strict=True):
        kind, shown = pixels_of(picture["url"])
        assert kind == "png" and (shown == expected).all()
    assert (pair["width"], pair["height"], pair["thumbnails"]) == (30, 20, [])
    assert pair["notes"] == ["The figures do not take transparency into account."]
    assert [p["facts"].split(" · ")[2] for p in pair["pictures"]] == [
        "8-bit colour",
        "8-bit colour with transparency",
        "8-bit gray",
    ]


def test_sixteen_bits_are_shown_as_eight() -> None:
    pixels = noise(20, 30).astype(np.uint16) * 257
    report = report_of(write("a.png", pixels), write("b.png", pixels + (pixels < 65535)))
    (pair,) = report.pairs
    assert (pixels_of(pair["pictures"][0]["url"])[1] == pixels // 257).all()
    assert "16-bit gray" in pair["pictures"][0]["facts"] and "8 bits per channel" in pair["notes"][0]
    assert pair["figures"][0]["value"] > 90  # a difference that 8 bits cannot show is measured


def test_nothing_private_is_embedded() -> None:
    """The place where a photograph was taken stays in its file, and its colour profile goes with its pixels."""
    picture = Picture(
        noise(20, 30, 3), exif=b"Exif\0\0secret", xmp=b"secret", icc=b"profile", text={"Comment": "secret"}
    )
    image = browser_image(picture)
    assert image.info == {"icc_profile": b"profile"}
    (url,) = embed([image], 100_000).urls
    assert b"secret" not in base64.b64decode(url.split(",")[1])


def test_what_does_not_fit_is_compressed_then_shrunk_then_left_out() -> None:
    smooth = np.repeat(np.repeat(noise(16, 16, 3), 16, axis=0), 16, axis=1)
    images = [Image.fromarray(smooth ^ noise(256, 256, 3, seed=k) // 32) for k in (1, 2)]
    budgets = [1_000_000, 150_000, 20_000, 1_000]
    exact, lossy, shrunk, nothing = (embed(images, budget) for budget in budgets)
    assert exact.is_exact and not lossy.is_exact and not shrunk.is_exact
    assert (exact.factor, lossy.factor) == (1, 1) and 1 < shrunk.factor <= 256 / MIN_SIDE and not nothing.urls
    for embedded, budget in zip((exact, lossy, shrunk), budgets, strict=False):
        assert embedded.size == sum(map(len, embedded.urls)) <= budget
        assert len({pixels_of(url)[1].shape for url in embedded.urls}) == 1  # both alike
    assert pixels_of(lossy.urls[0])[0] == "jpeg"
    transparent = embed([image.convert("RGBA") for image in images], 100_000)
    assert pixels_of(transparent.urls[0])[0] == "webp"


def test_a_preview_is_announced() -> None:
    paths = [write(f"{k}.png", noise(200, 300, 3, seed=k)) for k in range(2)]
    (pair,) = report_of(*paths, max_bytes=100_000).pairs
    assert "at most 0 MB" in pair["notes"][0] and "previews at 1/" in pair["notes"][0]
    (pair,) = report_of(*paths, max_bytes=100).pairs
    assert "left out" in pair["notes"][0] and [p["url"] for p in pair["pictures"]] == [None, None]


def test_a_gallery_stays_within_its_bytes() -> None:
    blocks = [np.kron(noise(15, 10, 3, seed=k), np.ones((20, 20, 1), np.uint8)) for k in range(2)]
    paths = [write(f"{k}.png", x ^ noise(300, 200, 3) // 32) for k, x in enumerate(blocks)]
    pictures = [load(path) for path in paths]
    measured = differences(*map(colour_of, pictures))
    report = Report("gallery", 6, is_gallery=True, max_bytes=900_000)
    report.skip("one is left out")
    for k in range(5):
        report.add(str(k), paths, pictures, measured)
    urls = [url for pair in report.pairs for url in (*pair["thumbnails"], *(p["url"] for p in pair["pictures"]))]
    assert len(urls) == 5 * 4 and all(urls) and 450_000 < sum(map(len, urls)) <= 900_000
    shapes = {pixels_of(url)[1].shape for pair in report.pairs for url in pair["thumbnails"]}
    assert shapes == {(240, 160, 3)} and report.to_dict()["notes"] == ["one is left out"]
    images = [browser_image(picture) for picture in pictures]
    sides = [max(pixels_of(url)[1].shape) for url in embed_thumbnails(images, 9_000).urls]
    assert sides[0] == sides[1] and sides[0] in THUMBNAIL_SIDES[1:]
    assert not embed_thumbnails(images, 100).urls


def test_names_tell_files_apart() -> None:
    assert display_names([Path("x/a.png"), Path("y/b.png")]) == ["a.png", "b.png"]
    assert display_names([Path("x/a.png"), Path("y/a.png")]) == ["x/a.png", "y/a.png"]


# --------------------------------------------------------------------------------------------------------- the command


def test_a_gallery_of_folders(capsys: pytest.CaptureFixture[str]) -> None:
    """A pair that cannot be shown is reported and named on the page, and the others are in it."""
    for k, name in enumerate(("x", "y")):
        write(f"a/{name}.png", noise(20, 30, 3, seed=k))
        write(f"b/{name}.png", noise(20, 30, 3, seed=k + 5))
    write("a/odd.png", noise(20, 30, 3))
    write("b/odd.png", noise(21, 30, 3))
    Path("a/z.png").write_bytes(b"no picture")
    write("b/z.png", noise(20, 30, 3))
    assert run(["compare", "a", str(Path("b").absolute()), "--html", "report.html", "-q"]) == 3
    out, err = capsys.readouterr()
    assert out == "report.html\n" and err.count("error: ") == 2
    text = Path("report.html").read_text(encoding="utf-8")
    assert str(Path().absolute()) not in text  # the page may be sent to others
    content = content_of(text)
    assert (
        content["title"] == "a and b"
        and content["isGallery"]
        and [pair["name"] for pair in content["pairs"]] == ["x.png", "y.png"]
    )
    assert [note.split()[0] for note in content["notes"]] == ["odd.png", "z.png"]
    assert content["pairs"][0]["pictures"][1]["name"] == "b/x.png"
    mean = np.mean([pair["figures"][0]["value"] for pair in content["pairs"]])
    assert content["summary"] == [f"B: {mean:.2f} dB, the mean of 2"]


def test_a_smaller_picture_is_shown_enlarged() -> None:
    write("a.png", noise(20, 30, 3))
    write("b.png", noise(40, 60, 3))
    assert run(["compare", "a.png", "b.png", "--html", "report.html"]) == 0
    (pair,) = content_of(Path("report.html").read_text(encoding="utf-8"))["pairs"]
    assert (pair["width"], pair["height"], pair["figures"]) == (60, 40, [])
    assert "sizes differ" in pair["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["a.png", "b.png", "--html", "there.html"], 7),
        (["a.png", "b.png", "--html", "none/report.html"], 7),
        (["a.png", "b.png", "--html", "folder.html", "--overwrite"], 7),
        (["a.png", "b.png", "--html", "report.png"], 2),
        (["a.png", "b.png", "--html", "a.png", "--overwrite"], 7),
        (["a.png", "odd.png", "--html", "report.html"], 2),
        (["a.png", "none.png", "--html", "report.html"], 4),
    ],
)
def test_when_no_page_is_written(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    write("a.png", noise(20, 30, 3))
    write("b.png", noise(20, 30, 3))
    write("odd.png", noise(21, 30, 3))
    Path("there.html").write_text("mine")
    Path("folder.html").mkdir()
    before = sorted(Path().rglob("*"))
    assert run(["compare", *arguments]) == code
    assert capsys.readouterr().err.count("error: ") == 1
    assert sorted(Path().rglob("*")) == before and Path("there.html").read_text() == "mine"


def test_a_page_is_replaced_only_if_asked() -> None:
    report = report_of(write("a.png", noise(8, 8, 3)), write("b.png", noise(8, 8, 3)))
    Path("report.html").write_text("mine")
    with pytest.raises(OutputError, match="exists"):  # it may have appeared while the pictures were compared
        save_page(report, Path("report.html"), overwrite=False)
    assert Path("report.html").read_text() == "mine"
    size = save_page(report, Path("report.html"), overwrite=True)
    assert Path("report.html").stat().st_size == size and Path("report.html").read_text("utf-8") == page(report)
    with pytest.raises(OutputError, match="cannot be written"):
        save_page(report, Path("a.png/report.html"), overwrite=False)
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "b.png", "report.html"]
