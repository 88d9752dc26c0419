"""Seventy files as they lie on a telephone, a camera card, a Mac and a file server: each is restored or named once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer.cli.app import run
from restorer.images.jpeg_file import make_segment
from restorer.images.kinds import KINDS
from restorer.models import load as models_load

# The files that are pictures, with the formats of their content.
PICTURES = {
    "phone/DCIM/Camera/IMG_20240101_120000.jpg": "JPEG",
    "phone/DCIM/Camera/IMG_20240101_120000_01_BURST.jpg": "JPEG",
    "phone/DCIM/Camera/PXL_20240101_120001.MP.jpg": "motion photo",
    "phone/DCIM/Camera/portrait (1).jpg": "JPEG",
    "phone/DCIM/Camera/sent.HEIC": "JPEG",  # a service has converted it and kept its name
    "phone/Pictures/Screenshots/Screenshot_1.png": "PNG",
    "phone/WhatsApp/Media/Sticker.webp": "WEBP",
    "phone/WhatsApp/Media/IMG-20240101-WA0000.jpg": "WEBP",
    "card/DCIM/100CANON/IMG_0001.JPG": "JPEG",
    "card/DCIM/100CANON/IMG_0002.JPG": "JPEG",
    "card/DCIM/100CANON/IMG_0010.JPG": "JPEG",
    "card/DCIM/101_PANA/P1010001.JPG": "JPEG",
    "card/DCIM/102NIKON/DSC_0001.TIF": "TIFF",
    "mac/Desktop/Bildschirmfoto 2024-01-01 um 12.00.00.png": "PNG",
    "mac/Pictures/Café.tiff": "TIFF",
    "mac/Pictures/scan.pdf.png": "PNG",
    "mac/Pictures/old.gif": "GIF",
    "mac/Pictures/web.avif": "PNG",
    "server/photo/2009/IMG_1.jpg": "JPEG",
    "server/photo/2009/IMG_1.png": "PNG",  # its result must not be that of IMG_1.jpg
    "server/photo/2009/scan0001.bmp": "BMP",
    "server/photo/2009/texture.tga": "TGA",
    "server/photo/2009/pgm/slide.ppm": "PPM",
}
BROKEN = {
    "phone/DCIM/Camera/half.jpg": b"\xff\xd8\xff\xe0" + bytes(40),
    "server/photo/2009/signin.jpg": b"<!DOCTYPE html><html>sign in</html>",
    "server/photo/2009/lost.png": bytes(3000),
}
OTHERS = {
    "phone/DCIM/Camera/VID_20240101.mp4": "video",
    "phone/DCIM/Camera/IMG_0001.MOV": "video",
    "phone/DCIM/Camera/IMG_0001.AAE": "sidecar",
    "phone/DCIM/Camera/.trashed-1700000000-IMG.jpg": "system",
    "phone/DCIM/.thumbnails": "hidden",
    "phone/Pictures/.nomedia": "hidden",
    "phone/WhatsApp/Media/PTT-20240101.opus": "audio",
    "phone/Download/ticket.pdf": "document",
    "phone/Download/app.zip": "archive",
    "phone/Download/picture.jpg.crdownload": "backup",
    "card/DCIM/100CANON/IMG_0001.CR3": "raw",
    "card/DCIM/100CANON/MVI_0003.THM": "sidecar",
    "card/DCIM/102NIKON/DSC_0001.NEF": "raw",
    "card/DCIM/103MSDCF/DSC00001.ARW": "raw",
    "card/PRIVATE/M4ROOT/CLIP/C0001.MP4": "video",
    "card/PRIVATE/M4ROOT/CLIP/C0001M01.XML": "document",
    "card/PRIVATE/AVCHD/BDMV/INDEX.BDM": "sidecar",
    "card/MISC/AUTPRINT.MRK": "other",
    "card/DCIM/100CANON/._IMG_0001.JPG": "hidden",
    "card/.Spotlight-V100": "hidden",
    "card/LOST.DIR": "system",
    "mac/.DS_Store": "hidden",
    "mac/Pictures/Photos Library.photoslibrary": "library",
    "mac/Pictures/._Café.tiff": "hidden",
    "mac/Pictures/Icon\r": "system",
    "mac/Pictures/drawing.svg": "picture",
    "mac/Pictures/poster.xcf": "picture",
    "mac/Pictures/poster.psb": "picture",
    "mac/Pictures/edit.jpg~": "backup",
    "mac/Pictures/IMG_0001.xmp": "sidecar",
    "mac/Music/song.m4a": "audio",
    "mac/__MACOSX": "system",
    "server/photo/@eaDir": "system",
    "server/photo/2009/#recycle": "system",
    "server/photo/2009/Thumbs.db": "system",
    "server/photo/2009/desktop.ini": "system",
    "server/photo/2009/.@__thumb": "hidden",
    "server/photo/2009/$RECYCLE.BIN": "system",
    "server/photo/2009/IMG_1.jpg.json": "sidecar",
    "server/photo/2009/notes.txt": "document",
    "server/photo/2009/README": "other",
    "server/photo/2009/catalogue.lrcat": "other",
    "server/photo/2009/latest.jpg": "link",
    "server/photo/2009/all": "link",
}
FOLDERS = {  # the others that are folders; each holds a picture that must not be found
    *("phone/DCIM/.thumbnails", "card/.Spotlight-V100", "card/LOST.DIR", "mac/Pictures/Photos Library.photoslibrary"),
    *("mac/__MACOSX", "server/photo/@eaDir", "server/photo/2009/#recycle", "server/photo/2009/.@__thumb"),
    "server/photo/2009/$RECYCLE.BIN",
}
LINKS = {"server/photo/2009/latest.jpg": "IMG_1.jpg", "server/photo/2009/all": "../../../phone"}


def draw(path: Path, format: str, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.random.default_rng(seed).integers(60, 196, (12, 10, 3), dtype=np.uint8))
    image.save(path, "JPEG" if format == "motion photo" else format)
    if format == "motion photo":
        data = path.read_bytes()
        claim = make_segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x GCamera:MotionPhoto="1"/>')
        path.write_bytes(data[:2] + claim + data[2:] + b"\0\0\0\x18ftypmp42" + bytes(99))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with all of these files, which is inside the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    for seed, (name, format) in enumerate(PICTURES.items()):
        draw(Path("disk", name), format, seed)
    for name, data in BROKEN.items():
        Path("disk", name).write_bytes(data)
    for name in OTHERS:
        path = Path("disk", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in LINKS:
            path.symlink_to(LINKS[name])
        elif name in FOLDERS:
            draw(path / "inside.jpg", "JPEG", 0)
        else:
            path.write_bytes(b"something else")
    return Path("disk")


def content(folder: Path) -> dict[str, object]:
    return {str(p): p.readlink() if p.is_symlink() else p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def test_every_file_is_restored_once_or_named_once(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(PICTURES) + len(BROKEN) + len(OTHERS) >= 60
    before = content(disk)
    arguments = ["denoise", "disk", "-r", "-o", "out", "--sigma", "9", "--steps", "1"]
    code = run([*arguments, "-v", "--json"])
    out, err = capsys.readouterr()
    assert code == 3 and content(disk) == before
    events = [json.loads(line) for line in out.splitlines()]
    done = {event["input"]: event["output"] for event in events if event.get("status") == "ok"}
    failed = [event["input"] for event in events if event.get("status") == "failed"]
    assert sorted(done) == sorted(f"disk/{name}" for name in PICTURES)
    assert sorted(failed) == sorted(f"disk/{name}" for name in BROKEN)
    assert len(set(done.values())) == len(done)
    written = {str(path) for path in Path("out").rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert written == set(done.values())
    passed = [(event["input"], event["kind"]) for event in events if event["event"] == "passed_over"]
    assert sorted(passed) == sorted((f"disk/{name}", kind) for name, kind in OTHERS.items())
    summary = events[-1]
    assert summary["passed_over"] == Counter(OTHERS.values())
    assert (summary["ok"], summary["failed"], summary["exit_code"]) == (len(PICTURES), len(BROKEN), 3)
    for name in OTHERS:
        assert err.count(f"disk/{name}: passed over".replace("\r", "\\r")) == 1
    for name in BROKEN:
        assert err.count(f"error: disk/{name} ") == 1
    last = err.strip().splitlines()[-1]
    for kind, count in Counter(OTHERS.values()).items():
        assert f"{count} {KINDS[kind].one if count == 1 else KINDS[kind].many}" in last


def test_without_verbose_the_last_line_counts_them(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["denoise", "disk", "-r", "-o", "out", "--sigma", "9", "--steps", "1"]) == 3
    out, err = capsys.readouterr()
    assert "passed over (" not in err and err.strip().splitlines()[-1].count("passed over: ") == 1
    order = [line for line in out.splitlines() if "/100CANON/" in line]
    assert [Path(line).name[:8] for line in order] == ["IMG_0001", "IMG_0002", "IMG_0010"]
    assert run(["denoise", "disk", "-r", "-o", "out", "--sigma", "9", "--steps", "1", "--skip-existing"]) == 3
    assert f"0 done, {len(BROKEN)} failed, {len(PICTURES)} skipped" in capsys.readouterr().err
