"""Damaged inputs from random seeds, for as long as one likes.

python tests/fuzz.py --minutes 10                        # all kinds in turn; make fuzz MINUTES=10
python tests/fuzz.py --kinds pictures models --count 5000
python tests/fuzz.py --again pictures-123456             # one input again
python tests/fuzz.py --guided                            # half of the time by coverage; see tests/guided_fuzz.py

The kinds are `pictures` and `masks` (read, and written again in every format), `metadata` (EXIF, XMP, profiles,
captions and records alone), `models` (a model's files) and `answers` (what a Hub says about a repository, and the files
that it sends). Each input is handled completely or refused with one line. An input that is not, and one that takes too
long or too much memory, is written to `tests/regressions/`, where `tests/test_regressions.py` tries it from then on.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import faulthandler
import io
import json
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import guided_fuzz
import huggingface_hub
import torch
from hub_fixtures import TINY, client_constants
from hub_server import COMMIT, Fault, Hub, loopback_only, serving
from huggingface_hub import constants
from mutations import flip_bytes, mutant
from picture_files import SRGB, XMP, sample_exif

from restorer.errors import RestorerError, UsageError
from restorer.folders.provenance import Record, parse_record
from restorer.images import photoshop
from restorer.images.files import load, load_mask, with_record
from restorer.images.metadata import adapt_exif, match_profile, read_record
from restorer.images.writing import save
from restorer.images.xmp import adapt_sizes, remove_claims, remove_orientation
from restorer.models.checkpoints import load_model, save_model
from restorer.models.hub import download
from restorer.models.hub.references import parse_reference

REGRESSIONS = Path(__file__).parent / "regressions"
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
MAX_PIXELS = 20_000
MAX_SECONDS = 20.0  # for one input
MAX_MEMORY = 400e6  # bytes, by which one input may raise the peak of the process

Input = tuple[str, bytes]  # a name, whose suffix tells how the bytes are used, and the bytes
Random = random.Random


# ---------------------------------------------------------------------------------------------------------- what to try


def picture(seed: int) -> Input:
    """Return a damaged picture."""
    made = mutant(seed)
    return made.name, made.data


def mask(seed: int) -> Input:
    """Return a damaged mask."""
    made = mutant(seed, masks=True)
    return made.name, made.data


def metadata(seed: int) -> Input:
    """Return a damaged block of metadata."""
    rng, whole = Random(seed), blocks()
    kind = rng.choice(sorted(whole))
    return f"{seed}.{kind}", _damaged(whole[kind], rng)


def blocks() -> dict[str, bytes]:
    """Return undamaged blocks of metadata by their kinds."""
    record = Record("1", "denoise", "a.png", "0" * 64, "photo", "0" * 64).to_json().encode()
    captions = photoshop.from_captions(b"\x1c\x02\x78\x00\x05hello")
    return {"exif": sample_exif().tobytes(), "xmp": XMP, "icc": SRGB, "iptc": captions, "record": record}


def _damaged(data: bytes, rng: Random) -> bytes:
    """Return bytes of which some are changed, missing or repeated."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        a, b = sorted(rng.randint(0, len(data)) for _ in range(2))
        piece = rng.choice(
            (b"\0", b"\xff", b'"', b"{", b"-1", b"1e999", b"null", b"[" * 50, b"9" * 30, b"\x00\xff\xff\xff")
        )
        data = rng.choice(
            (flip_bytes(data, rng), data[:b], data[:a] + data[b:], data[:b] + data[a:], data[:a] + piece + data[a:])
        )
    return data


@cache
def _model() -> dict[str, bytes]:
    """Return the files of a tiny model."""
    with tempfile.TemporaryDirectory() as name:
        torch.manual_seed(0)
        save_model(Path(name), TINY.network.build(), TINY, torch.float32)
        return {path.name: path.read_bytes() for path in sorted(Path(name).iterdir())}


def model(seed: int) -> Input:
    """Return a damaged file of a model, whose name says which one it is."""
    rng = Random(seed)
    name = rng.choice(sorted(n for n in _model() if n.endswith((".json", ".safetensors"))))
    data = _model()[name]
    if name.endswith(".json") and rng.random() < 0.6:
        return name, _changed_json(data, rng)
    if name.endswith(".safetensors") and rng.random() < 0.6:  # the header, in which everything is decided
        length = int.from_bytes(data[:8], "little")
        header = _damaged(data[8 : 8 + length], rng)
        size = len(header) if rng.random() < 0.8 else rng.getrandbits(rng.choice((8, 16, 32, 63)))
        return name, size.to_bytes(8, "little") + header + data[8 + length :]
    return name, _damaged(data, rng)


def _changed_json(data: bytes, rng: Random) -> bytes:
    """Return an object of JSON of which one value is replaced, however deep it lies."""
    content = json.loads(data)
    place, key = content, rng.choice(sorted(content))
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.8:
        place = place[key]
        key = rng.choice(sorted(place)) if isinstance(place, dict) else rng.randrange(len(place))
    values = (
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        1e308,
        float("nan"),
        "",
        "x" * 1000,
        [],
        [0],
        {},
        "../../etc",
        [[]] * 9,
    )
    place[key] = rng.choice(values)
    return json.dumps(content).encode()


def answer(seed: int) -> Input:
    """Return a damaged answer of a Hub; the name says which request it answers."""
    rng = Random(seed)
    if rng.random() < 0.3:
        name, data = model(seed)
        return f"{seed}.{name}", data
    data = listing()
    return f"{seed}.listing", _changed_json(data, rng) if rng.random() < 0.6 else _damaged(data, rng)


def listing() -> bytes:
    """Return an undamaged answer to the question what a repository holds."""
    return json.dumps(Hub(dict(_model())).listing(COMMIT)).encode()


# -------------------------------------------------------------------------------------------------------- how to try it


def try_picture(name: str, data: bytes) -> None:
    """Read a picture, and write it in every format."""
    found = load(io.BytesIO(data), MAX_PIXELS)
    for format in FORMATS:
        try:
            save(with_record(found, "{}"), io.BytesIO(), format)
        except UsageError as error:
            _check_line(error)


def try_mask(name: str, data: bytes) -> None:
    """Read a mask for a picture of its usual size."""
    fill = load_mask(io.BytesIO(data), (11, 14), max_pixels=MAX_PIXELS).fill
    assert fill.shape == (11, 14) and fill.dtype == bool


def try_metadata(name: str, data: bytes) -> None:
    """Do to a block of metadata what is done to that of a picture."""
    kind = name.rpartition(".")[2]
    if kind == "xmp":
        packet = remove_claims(remove_orientation(data))
        adapt_sizes(packet, (4, 3), (8, 6))
    elif kind == "icc":
        match_profile(data, 3)
    elif kind == "iptc":
        kept = photoshop.kept_resources(data)
        assert photoshop.kept_resources(kept) == kept
        photoshop.from_png_text(photoshop.png_text(data))
    elif kind == "record":
        found = parse_record(data.decode("utf-8", "replace"))
        assert found is None or found.command_line()
    else:  # readers of pictures drop EXIF that cannot be parsed, whatever the parser raises
        try:
            block = adapt_exif(data, (8, 6), old=(4, 3))
            read_record(block)
        except Exception:
            pass


def try_model(name: str, data: bytes) -> None:
    """Load a model of which one file is replaced."""
    with tempfile.TemporaryDirectory() as folder:
        for other, content in _model().items():
            Path(folder, other).write_bytes(data if other == name else content)
        load_model(Path(folder))


@cache
def _hub() -> Hub:
    """Start a Hub on this machine, which the client asks until the process ends."""
    loopback_only()
    stack = contextlib.ExitStack()
    hub = stack.enter_context(serving(Hub(dict(_model()))))
    atexit.register(stack.close)
    cache_folder = stack.enter_context(tempfile.TemporaryDirectory())
    for name, value in client_constants(hub, Path(cache_folder)).items():
        setattr(constants, name, value)
    huggingface_hub.close_session()
    return hub


def try_answer(name: str, data: bytes) -> None:
    """Fetch a model from a Hub that gives one wrong answer."""
    hub, what = _hub(), name.partition(".")[2]
    hub.faults = [Fault("GET /api" if what == "listing" else f"(GET|HEAD) .*/{re.escape(what)}", body=data)]
    download._fetched.clear()
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    original, time.sleep = time.sleep, lambda seconds: None  # the client waits between attempts
    try:
        load_model(download.fetch(parse_reference("org/model")))
    finally:
        time.sleep = original
        hub.faults.clear()


Make, Try = Callable[[int], Input], Callable[[str, bytes], None]
KINDS: dict[str, tuple[Make, Try]] = {
    "pictures": (picture, try_picture),
    "masks": (mask, try_mask),
    "metadata": (metadata, try_metadata),
    "models": (model, try_model),
    "answers": (answer, try_answer),
}


def fault(kind: str, name: str, data: bytes) -> str:
    """Return what goes wrong with an input; '' if it is handled, or refused in one line."""
    start, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    faulthandler.dump_traceback_later(3 * MAX_SECONDS, exit=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            KINDS[kind][1](name, data)
    except RestorerError as error:
        try:
            _check_line(error)
        except AssertionError:
            return f"the message is not one printable line: {error!r}"
    except Exception:
        return traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
    if (seconds := time.monotonic() - start) > MAX_SECONDS:
        return f"it takes {seconds:.0f} s"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory)
    return f"it takes {grown / 1e6:.0f} MB" if grown > MAX_MEMORY else ""


def _check_line(error: RestorerError) -> None:
    assert str(error) and str(error).isprintable()
    assert error.hint.isprintable()


def seeds(kinds: list[str], count: int | None, seconds: float) -> Iterator[tuple[str, int]]:
    """Yield kinds in turn with random seeds, as many as asked for or until the time is over."""
    source, end, number = random.SystemRandom(), time.monotonic() + seconds, 0
    while number < count if count is not None else time.monotonic() < end:
        yield kinds[number % len(kinds)], source.getrandbits(40)
        number += 1


def main() -> int:
    """Try inputs, and return 1 if any of them was not handled."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--count", type=int, help="number of inputs, instead of a time")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--again", metavar="KIND-SEED", help="try one input again")
    parser.add_argument(
        "--guided", action="store_true", help="leave half of the time to tests/guided_fuzz.py if atheris is installed"
    )
    options = parser.parse_args()
    if options.again:
        kind, _, seed = options.again.rpartition("-")
        found = fault(kind, *KINDS[kind][0](int(seed)))
        print(found or "handled")
        return bool(found)
    tried, failed, current = Counter[str](), 0, Path(tempfile.gettempdir(), "fuzz.current")
    share = 0.5 if options.guided and guided_fuzz.is_available() else 1.0
    for kind, seed in seeds(options.kinds, options.count, 60 * share * options.minutes):
        name, data = KINDS[kind][0](seed)
        current.write_text(f"{kind}-{seed}\n")  # what to look at if the process dies
        tried[kind] += 1
        if found := fault(kind, name, data):
            failed += 1
            target = REGRESSIONS / f"{kind}-{seed}-{name}"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(data)
            print(f"{kind}-{seed}: {found}\n-> {target}", file=sys.stderr, flush=True)
    print(", ".join(f"{n:,} {kind}" for kind, n in sorted(tried.items())) + f"; {failed} not handled")
    if options.guided and guided_fuzz.is_available():
        guided, has_failed = guided_fuzz.run(options.kinds, options.minutes / 2)
        print(", ".join(f"{n:,} {kind}" for kind, n in sorted(guided.items())) + " guided by coverage")
        failed += has_failed
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
