"""A headless Chromium that tests drive as a person would: pointer, keys, windows of any size.

It speaks Chromium's own protocol (DevTools, https://chromedevtools.github.io/devtools-protocol) through the pipe that
`--remote-debugging-pipe` opens: file descriptors 3 (to the browser) and 4 (from it), one JSON message after another,
each ended by a zero byte. So no driver program, no port and no package is needed.

    with Browser("chromium", tmp_path) as browser:
        tab = browser.open(path.as_uri(), width=1280, height=800)
        tab.click("button[data-value=out]")
        assert tab.value("document.querySelectorAll('.card').length") == 24
"""

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

# No process of the browser may call home, and none may share a profile with another test.
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--force-color-profile=srgb", "--remote-debugging-pipe",
)  # fmt: skip
SECONDS = 60.0
"""Longest wait for an answer: a browser that hangs is a failure and not a test that never ends."""
KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36, "ArrowLeft": 37,
    "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip


class Browser:
    """One Chromium; `open` gives tabs. What a page writes to its console as an error is collected in `errors`.

    Args:
        options: more of Chromium's options.
    """

    def __init__(self, program: str, folder: Path, *options: str):
        self.errors: list[str] = []
        self._numbers = iter(range(1, 1 << 30))
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []
        self._bytes = b""
        read_by_it, self._to = os.pipe()
        self._from, written_by_it = os.pipe()

        def connect() -> None:  # in the child: the two pipe ends to the numbers that Chromium wants
            os.dup2(read_by_it, 13)
            os.dup2(written_by_it, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        self._log = (folder / "chromium.log").open("wb")
        command = [program, *OPTIONS, *options, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=self._log, preexec_fn=connect, pass_fds=(3, 4, read_by_it, written_by_it)
        )
        os.close(read_by_it)
        os.close(written_by_it)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.send("Browser.close")
            self._process.wait(SECONDS)
        except (OSError, AssertionError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._log.close()

    def open(self, address: str, width: int = 1280, height: int = 900, touch: bool = False) -> "Tab":
        """A new tab that has loaded `address`."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log"):
            tab.send(f"{domain}.enable")
        tab.resize(width, height, touch)
        # No smooth scrolling: what is clicked must stand still.
        tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        tab.go(address)
        return tab

    def send(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """A command and its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while number not in self._answers:
            self._receive()
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def wait(self, method: str, session: str) -> dict[str, Any]:
        """The next event of that name in a tab."""
        while True:
            for place, event in enumerate(self._events):
                if event["method"] == method and event.get("sessionId") == session:
                    return self._events.pop(place)["params"]
            self._receive()

    def forget(self, method: str) -> None:
        """Drop events that came and that nobody waits for."""
        self._events = [event for event in self._events if event["method"] != method]

    def _receive(self) -> None:
        """Take what has come; at least one message."""
        end = time.monotonic() + SECONDS
        while b"\0" not in self._bytes:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium has not answered for {SECONDS:.0f} s"
            part = os.read(self._from, 1 << 20)
            assert part, "Chromium has ended"
            self._bytes += part
        *messages, self._bytes = self._bytes.split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif message["method"] == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error":
                    self.errors.append(entry["text"])
            else:
                self._events.append(message)


class Tab:
    """A page, and a person in front of it."""

    def __init__(self, browser: Browser, session: str):
        self.browser, self.session = browser, session

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command to this tab."""
        return self.browser.send(method, self.session, **parameters)

    def go(self, address: str) -> None:
        """Load an address, to the end."""
        self.browser.forget("Page.loadEventFired")
        if "loaderId" in self.send("Page.navigate", url=address):
            self.browser.wait("Page.loadEventFired", self.session)
        else:  # another place in the same page
            self.settle()

    def resize(self, width: int, height: int, touch: bool = False) -> None:
        """A window of that size, of a phone where `touch`."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)

    def value(self, expression: str) -> Any:
        """What an expression is, as JSON has it; promises are waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """What is to be read in the first such element, with single spaces."""
        return " ".join(self.value(f"document.querySelector({json.dumps(selector)}).innerText").split())

    def texts(self, selector: str) -> list[str]:
        """The same of all of them."""
        found = self.value(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.innerText)")
        return [" ".join(text.split()) for text in found]

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of the first such element, which is brought into view."""
        x, y = self.value(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)});"
            " node.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const r = node.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        return x, y

    def point(self, selector: str) -> None:
        """Move the pointer there."""
        x, y = self.place(selector)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Move the pointer there and press."""
        x, y = self.place(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def tap(self, selector: str) -> None:
        """Touch it with a finger."""
        x, y = self.place(selector)
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def until(self, expression: str) -> None:
        """Wait for something to become true, looked at once a frame."""
        self.value(
            "new Promise((done) => {"
            f" const look = () => {{ if ({expression}) done(true); else requestAnimationFrame(look); }}; look(); }})"
        )

    def settle(self) -> None:
        """Let events happen that come after, such as the end of a dialog."""
        self.value("new Promise((done) => setTimeout(done))")

    def close(self) -> None:
        """Close the tab."""
        self.send("Page.close")

    def press(self, *keys: str) -> None:
        """Keys, one after the other."""
        for key in keys:
            code = KEYS.get(key, ord(key.upper()[0]))
            about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            written = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", **about, **written)
            self.send("Input.dispatchKeyEvent", type="keyUp", **about)
        self.settle()

    def write(self, text: str) -> None:
        """Type a text where the focus is."""
        self.send("Input.insertText", text=text)

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to an <input type=file>, as its dialog would."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop(self, selector: str, *paths: Path) -> None:
        """Drag files there from another window, and let go."""
        x, y = self.place(selector)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def picture(self, path: Path, area: Sequence[float] | None = None) -> None:
        """Save what is to be seen, or an area (x, y, width, height) of the whole page, as PNG."""
        clip = {"clip": dict(zip(("x", "y", "width", "height"), area, strict=True)) | {"scale": 1}} if area else {}
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=bool(area), **clip)
        path.write_bytes(base64.b64decode(found["data"]))
