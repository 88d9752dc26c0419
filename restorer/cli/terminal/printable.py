"""Text that may be printed anywhere: without control characters, and in an encoding that may lack characters.

A file name may hold any byte but a slash and a null byte. Printed as it is, a name could move the cursor, change the
title of the terminal or, by characters that change the direction of writing, look like another name.
"""

from __future__ import annotations

import codecs
import unicodedata

__all__ = ["NAMES_AS_BYTES", "for_encoding", "has_characters", "printable", "register_error_handler"]

NAMES_AS_BYTES = "restorer-names"
"""The error handler of standard output, which `register_error_handler` registers."""

# Characters that change the direction of the text around them: Unicode Standard Annex 9, sections 2.1 to 2.6.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROLS = frozenset(["Cc", "Zl", "Zp", "Cs"])  # controls, line and paragraph separators, and halves of characters
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_REPLACED = {"·": "|", "±": "+-", "→": "->", "×": "x", "–": "-", "…": "..."}


def printable(text: str) -> str:
    """Return a text with its control characters escaped, for instance a line feed as \\n.

    Bytes of a file name that are not valid text are shown as, for instance, \\xff. Everything else stays as it is.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not valid text (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if character in _DIRECTIONS or unicodedata.category(character) in _CONTROLS:
        return _SHORT.get(character, f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
    return character


def has_characters(encoding: str | None, characters: str) -> bool:
    """Return whether an encoding has all of these characters."""
    try:
        characters.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def for_encoding(text: str, encoding: str | None) -> str:
    """Return a message with ASCII in place of the signs of its own, such as "·", that an encoding lacks.

    Other characters that the encoding lacks are left to the error handler of the stream.
    """
    if has_characters(encoding, text):
        return text
    for sign, replacement in _REPLACED.items():
        if sign in text and not has_characters(encoding, sign):
            text = text.replace(sign, replacement)
    return text


def register_error_handler() -> None:
    """Register the error handler `NAMES_AS_BYTES`.

    With this handler, bytes of a file name that are not valid text are written as they are, so that a script can use
    the name. A character that the encoding lacks is written as an escape, for instance \\u2026.
    """
    codecs.register_error(NAMES_AS_BYTES, _encode_name)


def _encode_name(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    start, text = error.start, error.object
    if 0xDC80 <= ord(text[start]) <= 0xDCFF:
        return bytes([ord(text[start]) - 0xDC00]), start + 1
    one = UnicodeEncodeError(error.encoding, text, start, start + 1, error.reason)
    return codecs.backslashreplace_errors(one)
