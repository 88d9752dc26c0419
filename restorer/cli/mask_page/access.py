"""Who may talk to the page: only who knows the token, from this machine, and from the page itself.

The token alone keeps other users of the machine out. The name of the host is checked because a page on the web can let
its own name point to this machine (DNS rebinding), and the origin because any page may send requests here. On Linux the
system also tells whose connection it is, for the case that a user reads the token from the list of processes, where it
is an argument of the browser.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import socket
import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["ADDRESS", "is_foreign", "is_local_name", "is_same_origin", "is_token", "owner_in"]

ADDRESS = "127.0.0.1"
"""The address of the server, which no other machine reaches."""

TABLES = ("/proc/net/tcp", "/proc/net/tcp6")  # the connections of this machine, on Linux
MAPPED = "0000000000000000FFFF0000"  # precedes an address of IPv4 in a table of IPv6
ROOT = 0

Endpoint = tuple[str, int]


def is_token(given: str, token: str) -> bool:
    """Return whether a text is the token; the time that this takes tells nothing about the token."""
    return hmac.compare_digest(given.encode(), token.encode())


def is_local_name(host: str | None) -> bool:
    """Return whether a Host header names this machine, with any port, because SSH may forward another one."""
    name, _, port = (host or "").partition(":")
    return name in (ADDRESS, "localhost") and (port.isdecimal() or not port)


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Return whether the Origin header of a request names the host that the request was sent to."""
    return headers.get("Origin") == f"http://{headers.get('Host')}"


def is_foreign(client: Endpoint, server: Endpoint) -> bool:
    """Return whether a connection was opened by another user, as far as the system tells.

    Root is no other user: root may read everything anyway, and opens the connections of some relays. A program of root
    is open to all who know the token.

    Args:
        client: Address and port of the client.
        server: Address and port of the server.
    """
    if not sys.platform.startswith("linux") or os.geteuid() == ROOT:
        return False
    for table in TABLES:
        with contextlib.suppress(OSError), Path(table).open(encoding="ascii") as lines:
            if (owner := owner_in(lines, client, server)) is not None:
                return owner not in (ROOT, os.geteuid())
    return False


def owner_in(table: Iterable[str], client: Endpoint, server: Endpoint) -> int | None:
    """Return the number of the user who has opened a connection, from a table of Linux; None if it is not there.

    Args:
        table: The lines of /proc/net/tcp or /proc/net/tcp6.
        client: As in `is_foreign`.
        server: As in `is_foreign`.
    """
    wanted = _written(client), _written(server)
    for line in table:
        fields = line.split()
        if len(fields) > 7 and tuple(field.removeprefix(MAPPED) for field in fields[1:3]) == wanted:
            return int(fields[7])
    return None


def _written(endpoint: Endpoint) -> str:
    """Return an endpoint as the table writes it: the address is a number in the order of the processor."""
    (number,) = struct.unpack("=I", socket.inet_aton(endpoint[0]))
    return f"{number:08X}:{endpoint[1]:04X}"
