"""The appearance on a terminal: lines that fit, colours that are legible on white, and a bar that disappears."""

from __future__ import annotations

import io
import os
import pty
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from restorer.cli import app
from restorer.cli.commands import doctor, models
from restorer.cli.terminal.reporter import THEME, Reporter, fold, report_error
from restorer.cli.terminal.streams import print_over_mark
from restorer.errors import PictureError

IMAGES = Path(__file__).parents[1] / "images"
FACTS = "denoise noisy.png · photo · cpu (2 threads) · bf16 · 4 steps · 1 tile · sigma 30.4 (estimated) · detail 0.8"
YELLOW = re.compile(r"\x1b\[(?:\d+;)*(?:33|93)(?:;\d+)*m")


def plain(text: str) -> str:
    """Remove the escape sequences of a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


class Terminal:
    """A reporter that prints to a pseudo-terminal of `width` columns."""

    def __init__(self, width: int, **options: bool) -> None:
        self._reader, writer = pty.openpty()
        self._file = os.fdopen(writer, "w")
        self.reporter = Reporter(**options)
        self.reporter.console = Console(file=self._file, width=width, height=24, theme=THEME, emoji=False)

    def close(self) -> str:
        """Close the terminal and return everything that was printed to it."""
        self._file.close()
        printed = b""
        try:
            while chunk := os.read(self._reader, 65536):
                printed += chunk
        except OSError:  # Linux raises it when the other end is closed
            pass
        os.close(self._reader)
        return printed.decode()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment of a terminal with colours."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    yield Terminal


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_facts_stay_whole_and_none_is_lost(width: int) -> None:
    lines = fold(FACTS, width).split("\n")
    assert [fact for line in lines for fact in line.strip().split(" · ")] == FACTS.split(" · ")
    assert all(cell_len(line) <= width or " · " not in line for line in lines)
    assert (len(lines) == 1) == (width >= cell_len(FACTS))


def test_lines_are_broken_between_words_and_never_within_a_path() -> None:
    path = "folder/" + 9 * "long-"
    assert fold(f"error: {path} does not exist", 30) == f"error:\n  {path}\n  does not exist"
    assert fold("       source  a.png", 80) == "       source  a.png"
    assert fold("写真 写真 写真", 10) == "写真 写真\n  写真"  # each character takes two columns


def test_messages_fit_the_terminal_and_colour_one_word(terminal: Callable[..., Terminal]) -> None:
    screen = terminal(60)
    screen.reporter.say("wrote clean/a.png · 480x360 · 170.4 kB", style="green")
    screen.reporter.say(FACTS)
    screen.reporter.warn("the mask covers 8.5 % of the picture, which is more than it may seem to be")
    report_error(PictureError("[b]a.png[/b] is no picture", "look"), console=screen.reporter.console)
    shown = screen.close()
    assert "\x1b[32mwrote\x1b[0m clean/a.png" in shown and not YELLOW.search(shown)
    assert max(map(cell_len, plain(shown).splitlines())) <= 60
    assert "\nerror: [b]a.png[/b] is no picture" in plain(shown).replace("\r", "")


def test_a_log_has_a_message_a_line_and_no_codes(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.say(2 * FACTS, style="green")
    with reporter.working("loading"), reporter.progress("a.png") as bar:
        bar.begin(2, 1)
        bar.step(1)
    assert capsys.readouterr().err.splitlines() == [2 * FACTS, "a.png: step 2/2, 50 %, 0 s left"]


def test_forced_colours_do_not_make_a_file_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """With FORCE_COLOR, which build services set, no bar is drawn into a log file."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    reporter, stream = Reporter(), io.StringIO()
    reporter.console = Console(file=stream, width=80, theme=THEME)
    assert reporter.console.is_terminal and not reporter.is_live
    with reporter.progress("a.png") as bar:
        bar.begin(2, 1)
        bar.step(1)
    assert plain(stream.getvalue()) == "a.png: step 2/2, 50 %, 0 s left\n" and "\r" not in stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_bar_keeps_its_figures_and_leaves_room(terminal: Callable[..., Terminal], width: int) -> None:
    """The terminal has room for ^C after the bar; on the next line, ^C would prevent the bar from being erased."""
    screen = terminal(width)
    with screen.reporter.progress("2024-08-17 harbour at night, second exposure (edited).png") as bar:
        bar.begin(100, 40)
        bar.step(11)
        bar.tile(12, 40)
    shown = screen.close()
    bars = [line for line in re.split(r"[\r\n]+", plain(shown)) if "left" in line]
    assert bars and max(map(cell_len, bars)) <= width - len("^C")
    assert any(re.search(r"step 12/100, tile 13/40 .*left [-\d]:[-\d]{2}:[-\d]{2} *$", line) for line in bars)
    assert not YELLOW.search(shown)
    assert shown.rstrip().endswith("\x1b[2K")  # the bar is erased


def test_a_dumb_terminal_gets_lines(terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen = terminal(80)
    with screen.reporter.working("loading"), screen.reporter.progress("a.png") as bar:
        bar.begin(2, 1)
        bar.step(1)
    assert screen.close() == "a.png: step 2/2, 50 %, 0 s left\r\n"


def test_without_colours_the_bar_shows_how_far_it_is(
    terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = terminal(80)
    with screen.reporter.progress("a.png") as bar:
        bar.begin(2, 1)
        bar.step(1)
    shown = screen.close()
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[;m]", shown)
    done = [line.count("━") for line in re.split(r"[\r\n]+", plain(shown)) if "step 2/2" in line]
    assert done and all(0 < n < 40 for n in done)  # half of the bar


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"), (False, "no"), (1, "1"), (None, "-"), ([], "none"), ({}, "none"), (78.27, "78.3 GB"),
        ({"total": 25.0, "cores": 0}, "total 25.0 GB, cores 0"), ([{"name": "H"}, {"name": "K"}], "name H; name K"),
    ],
)  # fmt: skip
def test_findings_have_units(value: object, text: str) -> None:
    assert doctor._text(value) == text


def test_doctor_gives_a_line_a_finding_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("  ")[0] for line in lines]
    assert names[:4] == ["restorer", "installed in", "python", "packages"]
    assert names[-2:] == ["embedded model", "embedded networks"]
    assert re.search(r"sha256 [0-9a-f]{64}$", lines[-2])


def help_of(*command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the help of a command as a terminal of 80 columns shows it."""
    from typer import rich_utils

    monkeypatch.setattr(rich_utils, "FORCE_TERMINAL", True)
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 80)
    assert app.run([*command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["", "denoise", "inpaint", "upscale", "compare", "doctor", "models", "models pull"])
def test_help_fits_and_can_be_read_on_white(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = help_of(*command.split(), capsys=capsys, monkeypatch=monkeypatch)
    assert "\x1b[" in shown and not YELLOW.search(shown)
    assert max(map(cell_len, plain(shown).splitlines())) <= 80
    assert "<bool>" not in plain(shown) and "[[" not in plain(shown)


def test_help_ends_with_examples_a_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # printing the help must not change it
        lines = plain(help_of("denoise", capsys=capsys, monkeypatch=monkeypatch)).split("\n")
        printed = [line.strip() for line in lines if line.strip()]
        assert printed[-3:] == [
            "restore denoise img.png",
            "restore denoise scan.jpg --sigma 30",
            "restore denoise photos/ -r -o clean/",
        ]
        assert printed[1] == "Remove noise; where there is none, remove the traces of JPEG compression."
        assert printed[2] == "Each result is written beside its input as INPUT_denoised."


@pytest.mark.parametrize("arguments", [[], ["denoise"], ["models"]])
def test_the_help_of_a_command_without_arguments_is_printed_once(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(arguments) == 2
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("Usage: ") == 1


def test_the_list_of_models_has_the_columns_that_fit() -> None:
    """No word is cut, even at 60 columns."""
    stream = io.StringIO()
    row = {"name": "ddpm-ema-celebahq-256", "here": False, "bytes": 455e6, "size": 256, "gflop": 497}
    rows = [{**row, "parameters": 10**8, "domain": "a thousand kinds of things (ImageNet)"}]
    for width, columns in (
        (60, "model installed download trained on"),
        (80, "model installed download pixels GFLOP trained on"),
        (200, "model installed download pixels GFLOP parameters memory licence trained on"),
    ):
        console = Console(file=stream, width=width)
        console.print(models._table(rows, width))
        shown = stream.getvalue()
        assert shown.split("\n")[0].split() == columns.split() and "…" not in shown
        stream.seek(0)
        stream.truncate()


def test_interrupted_stands_over_the_mark_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_over_mark(app.INTERRUPTED)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    print_over_mark(app.INTERRUPTED)
    assert capsys.readouterr().err == "interrupted\n\rinterrupted\n"


@pytest.mark.parametrize("name", ["terminal-denoise", "terminal-folder"])
@pytest.mark.parametrize("kind", ["dark", "light"])
def test_the_pictures_of_the_readme_fetch_nothing(name: str, kind: str) -> None:
    text = (IMAGES / f"{name}-{kind}.svg").read_text()
    addresses = set(re.findall(r"https?:[^\s\"')]*", text))
    assert len(text) < 60_000 and addresses <= {"http://www.w3.org/2000/svg"} and "@font-face" not in text
    shown = "".join(ElementTree.fromstring(text).itertext()).replace("\xa0", " ")
    assert "$ restore denoise" in shown and "wrote" in shown and str(Path.home()) not in shown and "/tmp" not in shown
