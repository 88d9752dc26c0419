"""The file of the page: style, scripts and content in one HTML document that requests nothing.

The Content-Security-Policy of the page allows its own style and scripts, by their hashes, and pictures that are in the
page itself. The content is JSON in an element that is not run.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import re
import secrets
from importlib.resources import files
from pathlib import Path
from typing import Any

from restorer import __version__
from restorer.cli.report_page.content import Report
from restorer.errors import OutputError

__all__ = ["POLICY", "page", "save_page"]

STYLE, SCRIPTS = "page.css", ("difference.js", "overlay.js", "view.js", "page.js")
POLICY = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:; base-uri 'none'; form-action 'none'"
)
"""The Content-Security-Policy, with places for the hashes of the scripts and of the style."""

SAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # JSON escapes of what could end the element or be a comment


def page(report: Report) -> str:
    """Return the page as one HTML document."""
    style, script = _read(STYLE), "\n".join(map(_read, SCRIPTS))
    parts = {
        "title": html.escape(report.title),
        "policy": POLICY.format(script=_hash(script), style=_hash(style)),
        "version": html.escape(__version__),
        "style": style,
        "script": script,
        "lines": "\n".join(f"<li>{html.escape(line)}</li>" for line in report.lines),
        "content": _to_json(report.to_dict()),
    }
    # One pass, so that a text that looks like a placeholder stays a text.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("page.html"))


def save_page(report: Report, target: Path, *, overwrite: bool) -> int:
    """Write the page, complete or not at all.

    Args:
        report: What the page shows.
        target: The file to write.
        overwrite: Whether an existing file is replaced.

    Returns:
        The number of bytes written.

    Raises:
        OutputError: The file exists and `overwrite` is not set, or it cannot be written.
    """
    data = page(report).encode()
    target = target.resolve() if target.is_symlink() else target
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        partial.write_bytes(data)
        if target.exists() and not overwrite:
            raise OutputError(f"{target} exists", "add --overwrite, or name another file with --html")
        partial.replace(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{target} cannot be written: {reason}", "name another file with --html") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return len(data)


def _read(name: str) -> str:
    return (files("restorer.cli.report_page") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash of an inline style or script as a Content-Security-Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _to_json(content: dict[str, Any]) -> str:
    text = json.dumps(content, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: SAFE[match[0]], text)
