"""The page of a study in a real browser: nothing missing, no error, dark and light, a phone's width, by keyboard."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from report_world import write_study
from support import clean_env, command

from orchestrator.report.page import make_report

pytestmark = pytest.mark.e2e

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0
PHONE, DESKTOP = (390, 844), (1280, 900)
LONG = "a_machine_whose_name_nobody_thought_of_making_shorter"

SOUNDS_ARE_READY = """Promise.all([...document.querySelectorAll("audio")].map((audio) =>
  new Promise((good, bad) => {
    const look = () => audio.error ? bad(audio.error.message) : audio.readyState && good();
    audio.addEventListener("loadedmetadata", look);
    audio.addEventListener("error", look);
    look();
  }))).then((all) => all.length)"""

# Text with less contrast to its ground than WCAG's 4.5, by what it says.
WEAK_TEXT = """(() => {
  const parts = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parts(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll("body *")]
    .filter((e) => own(e) && !e.closest("script, title, .map") && e.getClientRects().length)
    .filter((e) => {
      const style = getComputedStyle(e);
      const [a, b] = [light(parts(e.closest("svg") ? style.fill : style.color)), light(ground(e))];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
    }).map((e) => e.textContent.trim().slice(0, 60));
})()"""


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
    def page(self, path: Path, size: tuple[int, int], dark: bool = False, scripts: bool = True) -> Iterator["Browser"]:
        """Open a file in a new page and wait until it is loaded."""
        self.session, self.events = "", []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        phone = size[0] < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for("Page.loadEventFired")
        yield self
        self.call("Page.close")

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])
        if key == "Enter":
            self.call("Input.dispatchKeyEvent", type="char", key=key, text="\r")

    def faults(self) -> list[str]:
        """Everything that the console would show in red, and everything that did not load or was asked of a network."""
        found = []
        for event in self.events:
            name, params = event.get("method"), event.get("params", {})
            url = params.get("request", {}).get("url", "file:")
            wrong = (
                name in ("Runtime.exceptionThrown", "Network.loadingFailed")
                or (name == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"))
                or (name == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"))
                or (name == "Network.requestWillBeSent" and not url.startswith(("file:", "data:")))
            )
            found += [json.dumps(event)[:600]] if wrong else []
        return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser here: looked for {', '.join(BROWSERS)}")
    running = Browser(program, tmp_path_factory.mktemp("browser"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), machines=("fan", LONG))


@pytest.fixture(scope="module")
def page(study: Path) -> Path:
    return Path(make_report(str(study)).place)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_it_loads_whole_and_fits(browser: Browser, page: Path, size: tuple[int, int], dark: bool) -> None:
    with browser.page(page, size, dark) as there:
        assert there.value(SOUNDS_ARE_READY) == 2 * 2 * 2
        assert there.value("[...document.images].filter((i) => !(i.complete && i.naturalWidth)).length") == 0
        assert there.value("document.querySelectorAll('svg.chart').length") > 30
        assert there.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert there.value("document.documentElement.clientWidth") <= size[0]
        ground = there.value("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")
        assert there.value(WEAK_TEXT) == []
        assert there.faults() == []


def test_wide_tables_scroll_in_their_own_box(browser: Browser, page: Path) -> None:
    with browser.page(page, PHONE) as there:
        box = "document.querySelector('#results .scroll')"
        assert there.value(f"{box}.scrollWidth > {box}.clientWidth")
        assert there.value(f"getComputedStyle({box}).overflowX") == "auto"
        assert there.value(f"{box}.tabIndex") == 0  # so that arrow keys can scroll it


def test_it_works_by_keyboard(browser: Browser, page: Path) -> None:
    with browser.page(page, DESKTOP) as there:
        there.press("Tab")
        assert there.value("document.activeElement.className") == "skip"
        assert there.value("document.activeElement.getBoundingClientRect().left >= 0")
        there.press("Enter")
        assert there.value("location.hash") == "#content"
        there.value("document.querySelector('#machines [role=tab][aria-selected=true]').focus()")
        shown = "[...document.querySelectorAll('#machines .panel')].findIndex((panel) => !panel.hidden)"
        before = there.value(shown)
        there.press("ArrowRight")
        assert there.value(shown) == (before + 1) % 4
        assert there.value("document.activeElement.getAttribute('aria-selected')") == "true"
        assert there.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert there.faults() == []


def test_without_scripts_everything_stands_there(browser: Browser, page: Path) -> None:
    with browser.page(page, PHONE, scripts=False) as there:
        heights = there.value("[...document.querySelectorAll('.panel')].map((panel) => panel.offsetHeight)")
        assert len(heights) == 4 + 2 + 4
        assert min(heights) > 0
        assert there.value("document.querySelectorAll('[role=tab]').length") == 0
        assert there.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_command_says_where_the_page_is(study: Path, tmp_path: Path) -> None:
    def asd(*arguments: object) -> subprocess.CompletedProcess[str]:
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 240, "env": clean_env()}
        return subprocess.run(command("report", *arguments), **options)

    out = tmp_path / "page.html"
    done = asd(study, "--clips", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout
    assert out.as_uri() in done.stdout
    assert out.stat().st_size < 1_000_000
    wrong = asd(tmp_path / "nothing")
    assert wrong.returncode == 2
    assert "is no study's folder: it does not exist" in wrong.stderr
