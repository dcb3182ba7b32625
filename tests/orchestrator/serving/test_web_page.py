"""The page in a real browser: a recording is dropped or chosen, and its score, decision and spectrogram are seen."""

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_world import sound, wav
from web_world import LocalBackend, Site, site

from orchestrator.serving.web.clips import Clip
from orchestrator.serving.web.guard import Rules
from orchestrator.serving.web.limits import Limits

websockets = pytest.importorskip("websockets.sync.client", reason="needs websockets (comes with ray[serve])")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TOKEN = "correct-horse-battery"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0",
    "--disable-background-networking", "--disable-dev-shm-usage", "--window-size=900,1200",
)  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


class Browser:
    """One tab, driven over Chromium's debugging protocol."""

    def __init__(self, port: int) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=20) as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        self.socket = websockets.connect(address, max_size=None, proxy=None)
        self.number, self.events = 0, list[dict[str, Any]]()
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> Any:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self.socket.recv(timeout=30))
            if told.get("id") == self.number:
                assert "error" not in told, told
                return told["result"]
            self.events.append(told)

    def open(self, address: str) -> None:
        self.do("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        return self.do("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str, seconds: float = 20) -> None:
        limit = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < limit, (expression, self.value("document.body.innerText"))
            time.sleep(0.05)

    def choose(self, *paths: Path) -> None:
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        node = self.do("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        self.do("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def drop(self, *paths: Path) -> None:
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.do("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def look(self, path: Path, *, width: int = 900, dark: bool = False) -> None:
        """A picture of the whole page, kept where ASD_SCREENSHOTS says."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.do("Emulation.setEmulatedMedia", features=features)
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        picture = self.do("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        Path(os.environ.get("ASD_SCREENSHOTS", path), f"page_{width}_{dark}.png").write_bytes(base64.b64decode(picture))

    def complaints(self) -> list[str]:
        """Errors, and requests to any other host."""
        self.value("1")
        errors = [e for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        logged = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        away = [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:"))]
        return [*map(str, errors), *(f"{e['text']} {e.get('url', '')}" for e in logged if e["level"] == "error"), *away]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The debugging port of a running Chromium."""
    home = tmp_path_factory.mktemp("chromium")
    process = subprocess.Popen(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={home}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        limit = time.monotonic() + 60
        while not ((told := home / "DevToolsActivePort").exists() and told.read_text().count("\n")):
            assert process.poll() is None, "Chromium ended"
            assert time.monotonic() < limit, "Chromium did not start"
            time.sleep(0.1)
        yield int(told.read_text().split()[0])
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def browser(port: int) -> Iterator[Browser]:
    browser = Browser(port)
    yield browser
    browser.socket.close()


@pytest.fixture(scope="module")
def backend(exported: Path) -> LocalBackend:
    return LocalBackend(exported)


@pytest.fixture(scope="module")
def service(backend: LocalBackend) -> Iterator[Site]:
    with site(backend, Limits(max_file_mb=0.5, max_request_mb=0.5, max_files=2)) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, study: Path, backend: LocalBackend) -> list[Path]:
    """An anomaly, a normal clip, no audio under a name that is markup, and one that is too large."""
    folder, test = tmp_path_factory.mktemp("files"), study.parent.parent / "factory" / "pump" / "test"
    anomaly = next(test.glob("*_source_test_anomaly_0001*.wav"))
    trained = sorted((test.parent / "train").glob("*_source_train_normal_*.wav"))
    heard = [backend._score(Clip(path.read_bytes(), "pump", None, False)) for path in trained]
    normal = trained[[result.decision for result in heard].index("normal")]
    evil, large = folder / "<img src=x onerror=alert(1)>.wav", folder / "large.wav"
    evil.write_bytes(b"no audio")
    large.write_bytes(wav(sound(300, np.random.default_rng(0), 30.0)))
    return [anomaly, normal, evil, large]


ROWS = "document.querySelectorAll('#results > li').length"


def test_files_are_chosen_and_their_rows_are_seen(
    browser: Browser, service: Site, files: list[Path], tmp_path: Path
) -> None:
    """Four files, two in a request: in the end, a row each."""
    browser.open(f"http://127.0.0.1:{service.port}/")
    browser.until("document.querySelectorAll('#machine option').length === 2")
    assert browser.value("document.getElementById('section-label').hidden") is False  # fan has two
    browser.value("m = document.getElementById('machine'); m.value = 'pump'; m.onchange()")
    assert browser.value("document.getElementById('section-label').hidden") is True
    browser.choose(*files)
    browser.until("document.getElementById('state').textContent.includes('scored')")
    assert browser.value("document.getElementById('state').textContent") == "2 of 4 recordings scored, 1 anomalous."
    rows = browser.value("[...document.querySelectorAll('#results > li')].map(row => row.innerText)")
    large, anomaly, normal, evil = rows
    assert "more than 0.5 MB" in large
    assert anomaly.startswith("Anomaly")
    assert normal.startswith("Normal")
    assert files[0].name in anomaly
    assert "threshold" in anomaly
    assert files[2].name in evil  # as text
    assert "not a WAV, FLAC, OGG or MP3 file" in evil
    painted = "new Set(document.querySelector('canvas').getContext('2d').getImageData(0, 0, 20, 128).data).size"
    assert browser.value(painted) > 20
    browser.look(tmp_path)
    browser.look(tmp_path, width=375, dark=True)
    assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")  # nothing sticks out on a phone
    assert browser.complaints() == []


def test_a_file_is_dropped(browser: Browser, service: Site, files: list[Path]) -> None:
    browser.open(f"http://127.0.0.1:{service.port}/")
    browser.until("document.querySelectorAll('#machine option').length === 2")
    browser.drop(files[0])
    browser.until(f"{ROWS} === 1")
    assert browser.value("document.querySelector('#results .badge').textContent") in ("Anomaly", "Normal")
    assert browser.complaints() == []


def test_the_keyboard_reaches_everything(browser: Browser, service: Site) -> None:
    browser.open(f"http://127.0.0.1:{service.port}/")
    browser.until("document.querySelectorAll('#machine option').length === 2")
    seen = []
    for _ in range(4):
        browser.press("Tab", 9)
        seen.append(browser.value("document.activeElement.id || document.activeElement.textContent"))
    assert seen == ["machine", "section", "files", "API"]


def test_the_page_asks_for_the_token(browser: Browser, backend: LocalBackend, files: list[Path]) -> None:
    with site(backend, Limits(), Rules(TOKEN, False)) as running:
        browser.open(f"http://127.0.0.1:{running.port}/")
        browser.until("!document.getElementById('token-form').hidden")
        for token, shown in (("wrong", "token-note"), (TOKEN, "about")):
            browser.value(f"document.getElementById('token').value = '{token}'")
            browser.value("document.querySelector('#token-form button').click()")
            browser.until(f"document.getElementById('{shown}').textContent !== ''")
        browser.until("!document.getElementById('ask').hidden")
        browser.choose(files[0])
        browser.until(f"{ROWS} === 1")


def test_the_api_page_needs_no_other_site(browser: Browser, service: Site) -> None:
    browser.open(f"http://127.0.0.1:{service.port}/docs")
    browser.until("document.querySelectorAll('.operation').length > 8")
    assert "POST /score" in browser.value("document.body.innerText")
    assert browser.complaints() == []


def test_a_service_that_is_gone_is_said(browser: Browser, backend: LocalBackend, files: list[Path]) -> None:
    with site(backend) as running:
        browser.open(f"http://127.0.0.1:{running.port}/")
        browser.until("document.querySelectorAll('#machine option').length === 2")
    browser.choose(files[0])
    browser.until("document.getElementById('state').textContent.includes('connection was lost')")
