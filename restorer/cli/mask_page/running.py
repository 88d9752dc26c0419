"""The run of the page: its server starts, its address is told, and what it asks for is filled until it closes."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser

from restorer.cli.mask_page.access import ADDRESS
from restorer.cli.mask_page.filling import Filler
from restorer.cli.mask_page.server import PageServer
from restorer.cli.mask_page.session import Session
from restorer.cli.terminal.reporter import Reporter, stderr_console

__all__ = ["has_display", "is_remote", "serve"]


def serve(session: Session, filler: Filler, reporter: Reporter, *, port: int, opens_browser: bool) -> None:
    """Serve the page until it is done or closed.

    Args:
        session: What the page shows and changes.
        filler: Fills what the page asks for.
        reporter: Receives the messages.
        port: The port; 0 for a free one.
        opens_browser: Whether the page is opened in the browser of the user, if there is one on this machine.

    Raises:
        UsageError: The port cannot be used.
    """
    with PageServer(session, port) as server:
        _announce(server, reporter, opens_browser=opens_browser)
        while (request := session.next_request()) is not None:
            filler.run(request)


def is_remote() -> bool:
    """Return whether the user is on another machine, connected by SSH."""
    return bool(os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"))


def has_display() -> bool:
    """Return whether a browser on this machine could show something."""
    if os.name != "posix" or sys.platform == "darwin":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _announce(server: PageServer, reporter: Reporter, *, opens_browser: bool) -> None:
    """Print the address of the page, and open it where that makes sense.

    The address is printed even to a quiet terminal if nothing else leads to the page.
    """
    is_opened = opens_browser and has_display() and not is_remote()
    teller = reporter if is_opened else Reporter()
    teller.say(f"page at {server.address}")
    if is_opened:
        # Some browsers keep the caller waiting until they are closed.
        threading.Thread(target=_open, args=(server.address,), daemon=True).start()
        reporter.say("draw the mask in your browser; if no page appears, open the address by hand")
    elif is_remote():
        port = server.server_port
        host = os.environ.get("SSH_CONNECTION", "").split(" ")[2:3]
        teller.say(
            f"forward the port from your own machine, then open the address there: "
            f"ssh -L {port}:{ADDRESS}:{port} {host[0] if host else 'HOST'}"
        )
    else:
        reporter.say("open the address in a browser on this machine")
    reporter.say("Ctrl-C stops the program")


def _open(address: str) -> None:
    try:
        is_opened = webbrowser.open(address)
    except webbrowser.Error:
        is_opened = False
    if not is_opened:
        stderr_console().print("note: no browser could be opened; open the address by hand", highlight=False)
