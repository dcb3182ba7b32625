"""A real browser that tests drive: a headless Chromium over its DevTools protocol."""

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0
PHONE, DESKTOP = (390, 844), (1280, 900)


class Browser:
    """A headless Chromium that is told what to do over a pipe (its DevTools protocol), one page at a time."""

    def __init__(self, program: str, profile: Path) -> None:
        inbound, self.send_to = os.pipe()
        self.receive_from, outbound = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{inbound} 4>&{outbound}', "bash", program, *options],
            pass_fds=(inbound, outbound),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(inbound)
        os.close(outbound)
        self.rest, self.number, self.session, self.events = b"", 0, "", list[dict[str, Any]]()

    def close(self) -> None:
        with suppress(OSError, AssertionError):
            self.session = ""
            self.call("Browser.close")
        for end in (self.send_to, self.receive_from):
            os.close(end)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Do one thing and return its result; what happens meanwhile is kept in `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.send_to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def wait_for(self, event: str) -> None:
        while not any(seen.get("method") == event for seen in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        limit = time.monotonic() + SECONDS
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.receive_from], [], [], max(0, limit - time.monotonic()))
            data = os.read(self.receive_from, 1 << 20) if ready else b""
            assert data, "the browser does not answer"
            self.rest += data
        message, _, self.rest = self.rest.partition(b"\0")
        return dict(json.loads(message))

    @contextmanager
    def page(
        self, address: str, size: tuple[int, int] = DESKTOP, dark: bool = False, scripts: bool = True
    ) -> Iterator["Browser"]:
        """Open an address in a new page and wait until it is loaded; a page from a file may ask for nothing else."""
        self.session, self.events = "", []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        self.resize(size, dark)
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.home = address.split("/", 3)[:3]  # scheme and host
        self.call("Page.navigate", url=address)
        self.wait_for("Page.loadEventFired")
        yield self
        self.call("Page.close")

    def resize(self, size: tuple[int, int], dark: bool = False) -> None:
        phone = size[0] < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = SECONDS) -> None:
        """Wait until an expression is true."""
        limit = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < limit, (expression, self.value("document.body.innerText"))
            time.sleep(0.05)

    def choose(self, selector: str, *paths: Path) -> None:
        """Give a file input these files."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def drop(self, *paths: Path) -> None:
        """Drop files in the middle of the page."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)

    def look(self, path: Path, whole: bool = True) -> None:
        """A picture of the page; a whole one goes beyond the window."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(picture))

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])
        if key == "Enter":
            self.call("Input.dispatchKeyEvent", type="char", key=key, text="\r")

    def faults(self) -> list[str]:
        """What the console would show in red, what did not load, and what was asked of another host."""
        found = []
        for event in self.events:
            name, params = event.get("method"), event.get("params", {})
            url = params.get("request", {}).get("url", "data:")
            wrong = (
                name in ("Runtime.exceptionThrown", "Network.loadingFailed")
                or (name == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"))
                or (name == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"))
                or (url.split("/", 3)[:3] != self.home and not url.startswith(("data:", "blob:")))
            )
            found += [json.dumps(event)[:600]] if wrong else []
        return found
