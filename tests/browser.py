"""A headless Chromium by its DevTools protocol, over a pair of pipes: no driver, no socket."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str | None:
    """The browser's program; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page in a browser: what was asked, what it logged and what it tried to load."""

    def __init__(self, to: int, source: int) -> None:
        self._to, self._from, self._rest, self._last = to, source, b"", 0
        self.session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer, keeping the events that come before it."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._keep(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._from, 1 << 16)
            assert more, "the browser has ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def _keep(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, path: Path) -> None:
        """Load a file and wait until it is drawn."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=path.absolute().as_uri())
        ready = "new Promise(r => document.readyState === 'complete' ? r() : onload = r)"
        self.run(f"{ready}.then(() => new Promise(r => setTimeout(r, 150)))")

    def run(self, script: str) -> Any:
        """The value of an expression, on the page; of a promise, what it comes to."""
        found = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def key(self, name: str, code: int, *, text: str = "", shift: bool = False) -> None:
        """Press and let go of a key, as a person does."""
        parts = {"key": name, "code": name, "windowsVirtualKeyCode": code}
        parts |= {"modifiers": 8 if shift else 0, **({"text": text} if text else {})}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **parts)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **parts)
        self.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def mouse(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse, and click."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            at = {"x": x, "y": y, "button": "left", "clickCount": 1}
            self.ask("Input.dispatchMouseEvent", type=kind, **at)
        self.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Be a screen of a width, which people have set to light or dark."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.run("new Promise(r => setTimeout(r, 150))")

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of what is seen, or of all of the page."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self) -> bytes:
        """The page as it would be printed."""
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"])


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Page]:
    """A browser with one page, which ends with the block."""
    (to_read, to_write), (from_read, from_write) = os.pipe(), os.pipe()
    high = [os.dup(to_read), os.dup(from_write)]  # clear of 3 and 4, where Chromium wants them
    words = f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]}'
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    options += ["--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        ["bash", "-c", words, program, *options, "about:blank"],
        pass_fds=high,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (to_read, from_write, *high):
        os.close(end)
    try:
        page = Page(to_write, from_read)
        targets = page.ask("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        page.session = page.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page.ask("Emulation.setFocusEmulationEnabled", enabled=True)
        page.ask("Emulation.setScrollbarsHidden", hidden=True)
        yield page
        page.session = None
        page.ask("Browser.close")
    finally:
        os.close(to_write)
        os.close(from_read)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
