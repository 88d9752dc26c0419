"""A real Chromium without a window, driven by its own chromedriver over WebDriver (https://www.w3.org/TR/webdriver2/).

Nothing but the standard library is needed. The browser may reach 127.0.0.1 only.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Browser", "chromium", "open_browser"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-domain-reliability",
    "--disable-features=Translate,OptimizationHints,MediaRouter,AutofillServerCommunication",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--force-device-scale-factor=1",
)
SECONDS = 60.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element in WebDriver


def chromium() -> tuple[str, str] | None:
    """The paths of the browser and of its driver; None if they are not installed."""
    driver = shutil.which("chromedriver")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    return (browser, driver) if browser and driver else None


class Browser:
    """One session of a browser."""

    def __init__(self, address: str, capabilities: dict[str, Any]) -> None:
        self.address = address
        self.session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]

    def _ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {json.load(error)['value']['message']}") from error

    def command(self, method: str, name: str, content: dict[str, Any] | None = None) -> Any:
        """Send a command of WebDriver, and return its value."""
        return self._ask(method, f"/session/{self.session}/{name}", content)

    def open(self, address: str) -> None:
        self.command("POST", "url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function in the page, and return its value."""
        return self.command("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: str, *arguments: Any) -> Any:
        """Wait until an expression of the page is true, and return its value."""
        end = time.monotonic() + SECONDS
        while not (value := self.run(f"return {condition}", *arguments)):
            assert time.monotonic() < end, f"never true: {condition}; {self.errors()}"
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click an element as a user does; it must be visible and not covered."""
        element = self.command("POST", "element", {"using": "css selector", "value": selector})[ELEMENT]
        self.command("POST", f"element/{element}/click", {})

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def drag(self, *points: Sequence[float], button: int = 0, kind: str = "mouse") -> None:
        """Press at the first point, move over the others, and release; points are in pixels of the window."""
        start, *others = points
        actions: list[dict[str, Any]] = [_move(start), {"type": "pointerDown", "button": button}]
        actions += [*(_move(point) for point in others), {"type": "pointerUp", "button": button}]
        self._act({"type": "pointer", "id": kind, "parameters": {"pointerType": kind}, "actions": actions})

    def pinch(self, first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> None:
        """Move two fingers, each over its points."""
        fingers = []
        for number, (start, *others) in enumerate((first, second)):
            actions = [_move(start), {"type": "pointerDown", "button": 0}]
            actions += [*(_move(point) for point in others), {"type": "pointerUp", "button": 0}]
            parameters = {"pointerType": "touch"}
            fingers.append({"type": "pointer", "id": f"f{number}", "parameters": parameters, "actions": actions})
        self._act(*fingers)

    def scroll(self, point: Sequence[float], dy: int) -> None:
        """Turn the wheel at a point."""
        action = {"type": "scroll", "x": round(point[0]), "y": round(point[1]), "deltaX": 0, "deltaY": dy}
        self._act({"type": "wheel", "id": "wheel", "actions": [action]})

    def press(self, *keys: str) -> None:
        """Press keys together: all go down in this order, then all go up."""
        down = [{"type": "keyDown", "value": key} for key in keys]
        up = [{"type": "keyUp", "value": key} for key in reversed(keys)]
        self._act({"type": "key", "id": "keys", "actions": down + up})

    def _act(self, *devices: dict[str, Any]) -> None:
        self.command("POST", "actions", {"actions": list(devices)})

    def resize(self, width: int, height: int) -> None:
        """Make the page of this size, whatever surrounds it."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def devtools(self, name: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self.command("POST", "goog/cdp/execute", {"cmd": name, "params": parameters})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.command("GET", "screenshot")))

    def errors(self) -> list[str]:
        """What the console of the page holds since the last call, which includes violations of its policy."""
        return [entry["message"] for entry in self.command("POST", "se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """The addresses that the page has requested since the last call."""
        entries = self.command("POST", "se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def _move(point: Sequence[float]) -> dict[str, Any]:
    return {"type": "pointerMove", "duration": 0, "x": round(point[0]), "y": round(point[1])}


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own in a folder.

    Raises:
        LookupError: There is no Chromium with its driver.
    """
    found = chromium()
    if found is None:
        raise LookupError("no Chromium with its chromedriver is installed")
    browser, driver = found
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        port = next(m[1] for line in process.stdout if (m := re.search(r"started successfully on port (\d+)", line)))
        session = Browser(
            f"http://127.0.0.1:{port}",
            {
                "browserName": "chrome",
                "goog:chromeOptions": {
                    "binary": browser,
                    "args": [*FLAGS, f"--user-data-dir={folder / 'profile'}"],
                    "perfLoggingPrefs": {"enableNetwork": True},
                },
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                "unhandledPromptBehavior": "accept",
            },
        )
        try:
            yield session
        finally:
            with contextlib.suppress(AssertionError, OSError):
                session._ask("DELETE", f"/session/{session.session}")
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)
