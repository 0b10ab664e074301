"""A headless Chromium that opens pages for tests, driven through the pipe it offers to debuggers.

The protocol is Chrome's (https://chromedevtools.github.io/devtools-protocol/): JSON messages that
end with a zero byte. Whatever the browser would fetch goes to a proxy that counts and refuses.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from PIL import Image

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# No first-run page, no updates, no reports: nothing but the pages asked for.
FLAGS = (
    "--headless",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-pipe",
)
ALLOWED = ("about:", "data:", "file:")

# Texts with their contrast to what is behind them (WCAG 2.2, relative luminance), lowest first.
_CONTRASTS = """
(() => {
  const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.body.querySelectorAll("*")) {
    const texts = [...e.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    const own = texts.map((node) => node.data).join("").trim();
    if (!own) continue;
    const style = getComputedStyle(e);
    const text = light(rgba(e instanceof SVGElement ? style.fill : style.color));
    const [low, high] = [text, light(behind(e))].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), own.slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
})()
"""
# Elements that stand out of the page where nothing can be scrolled to them, and cells whose text
# runs into the next.
_CUT = """
(() => {
  const scrolls = (e) => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const width = document.documentElement.clientWidth;
  return [...document.body.querySelectorAll("*")].filter((e) =>
    (e.getBoundingClientRect().right > width + 1 && !scrolls(e))
    || (["TD", "TH"].includes(e.tagName) && e.scrollWidth > e.clientWidth + 1)
  ).map((e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`).slice(0, 5);
})()
"""
# Of the reports' paper, at each side.
MARGIN_MM = 12


class Browser:
    """A Chromium with one page.

    ``errors`` are what the page's console says, and scripts that fail; ``requests`` are addresses
    asked for but those of `ALLOWED`; ``connections`` counts what reached the proxy.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.connections = 0
        self._number = 0
        self._read = b""
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        self._closing = ExitStack()
        proxy = self._closing.enter_context(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=self._refuse, args=(proxy,), daemon=True).start()
        theirs, ours = os.pipe(), os.pipe()
        flags = [*FLAGS, f"--user-data-dir={profile}"]
        flags += [f"--proxy-server=127.0.0.1:{proxy.getsockname()[1]}"]
        flags += ["--proxy-bypass-list=<-loopback>"]  # this machine's own servers are others too
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        # The browser reads from descriptor 3 and writes to 4.
        shell = f'exec "$@" 3<&{theirs[0]} 4>&{ours[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *flags],
            pass_fds=(theirs[0], ours[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs[0])
        os.close(ours[1])
        self._to = self._closing.enter_context(os.fdopen(theirs[1], "wb", buffering=0))
        self._from = ours[0]
        self._closing.callback(os.close, self._from)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._closing.close()

    def _refuse(self, proxy: socket.socket) -> None:
        while True:
            try:
                connection, _ = proxy.accept()
            except OSError:  # closed
                return
            self.connections += 1
            connection.close()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and give its result; events on the way are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            more = os.read(self._from, 1 << 16)
            assert more, "the browser has ended"
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        told = answer.get("params", {})
        match answer.get("method"):
            case "Network.requestWillBeSent":
                if not told["request"]["url"].startswith(ALLOWED):
                    self.requests.append(told["request"]["url"])
            case "Log.entryAdded":
                self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled":
                self.errors.append(str([each.get("value") for each in told["args"]]))
            case "Runtime.exceptionThrown":
                self.errors.append(str(told["exceptionDetails"]))
            case str() as event:
                self._events.append({"method": event, **told})
        return answer

    def forget(self) -> None:
        """Be as just started, with a window of a usual size."""
        self.errors.clear()
        self.requests.clear()
        self.connections = 0
        self.emulate()
        self.resize(1366)

    def open(self, path: Path) -> None:
        """Open a file and wait until all of it is there."""
        self._events.clear()
        self.ask("Page.navigate", url=path.absolute().as_uri())
        self._wait(lambda: any(e["method"] == "Page.loadEventFired" for e in self._events))

    def _wait(self, done: Callable[[], bool]) -> None:
        while not done():
            self._next()

    def run(self, expression: str) -> Any:
        """Give what an expression in JavaScript is worth in the page, as JSON."""
        made = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def emulate(self, *, media: str = "", scheme: str = "light") -> None:
        """Show the page as on "print" media, or to a user who prefers a "dark" scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)

    def resize(self, width: int, height: int = 800) -> None:
        """Give the page a window of that many pixels."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self) -> bytes:
        """Give the whole page as PNG."""
        made = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(made["data"])

    def pdf(self) -> bytes:
        """Print the page on the paper that it asks for."""
        made = self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(made["data"])

    def check_page(self, path: Path, *, paper_mm: float = 210) -> None:
        """Open a page and check that all of it can be read, in both schemes and on paper.

        The page is light or dark as its reader wants, nothing is cut at any usual width, nothing
        is asked for and nothing goes wrong.
        """
        self.open(path)
        for scheme, brightness in (("light", 250), ("dark", 30)):
            self.emulate(scheme=scheme)
            image = Image.open(io.BytesIO(self.screenshot())).convert("L")
            assert abs(image.getpixel((2, 2)) - brightness) < 20, scheme
            assert self.run(_CONTRASTS)[0] >= [7], (scheme, self.run(_CONTRASTS)[:3])
            for width in (1920, 1366, 700):
                self.resize(width)
                assert not (cut := self.run(_CUT)), (width, cut)
        # Paper is white, whatever the reader's screen is like.
        self.emulate(media="print", scheme="dark")
        self.resize(round((paper_mm - 2 * MARGIN_MM) / 25.4 * 96))
        assert not (cut := self.run(_CUT)), cut
        assert self.run(_CONTRASTS)[0] >= [7], self.run(_CONTRASTS)[:3]
        assert self.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        self.emulate()
        assert (self.errors, self.requests, self.connections) == ([], [], 0)


def start(profile: Path) -> Browser:
    """Start the browser that is installed; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)}")
    return Browser(program, profile)
