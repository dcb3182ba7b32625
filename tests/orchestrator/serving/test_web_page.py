"""The page in a real browser: a recording is dropped or chosen, and its score, decision and spectrogram are seen."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from browser import PHONE, Browser
from serving_world import sound, wav
from web_world import LocalBackend, Site, site

from orchestrator.serving.web.clips import Clip
from orchestrator.serving.web.guard import Rules
from orchestrator.serving.web.limits import Limits

TOKEN = "correct-horse-battery"


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
READY = "document.querySelectorAll('#machine option').length === 2"


@contextmanager
def opened(browser: Browser, site: Site, path: str = "") -> Iterator[Browser]:
    with browser.page(f"http://127.0.0.1:{site.port}/{path}", (900, 900)) as page:
        yield page


def test_files_are_chosen_and_their_rows_are_seen(
    browser: Browser, service: Site, files: list[Path], tmp_path: Path
) -> None:
    """Four files, two in a request: in the end, a row each."""
    with opened(browser, service) as page:
        page.until(READY)
        assert page.value("document.getElementById('section-label').hidden") is False  # fan has two
        page.value("m = document.getElementById('machine'); m.value = 'pump'; m.onchange()")
        assert page.value("document.getElementById('section-label').hidden") is True
        page.choose("#files", *files)
        page.until("document.getElementById('state').textContent.includes('scored')")
        assert page.value("document.getElementById('state').textContent") == "2 of 4 recordings scored, 1 anomalous."
        large, anomaly, normal, evil = page.value(
            "[...document.querySelectorAll('#results > li')].map(row => row.innerText)"
        )
        assert "more than 0.5 MB" in large
        assert anomaly.startswith("Anomaly")
        assert normal.startswith("Normal")
        assert files[0].name in anomaly
        assert "threshold" in anomaly
        assert files[2].name in evil  # as text
        assert "not a WAV, FLAC, OGG or MP3 file" in evil
        painted = "new Set(document.querySelector('canvas').getContext('2d').getImageData(0, 0, 20, 128).data).size"
        assert page.value(painted) > 20
        kept = Path(os.environ.get("ASD_SCREENSHOTS", tmp_path))
        page.look(kept / "serve.png")
        page.resize(PHONE, dark=True)
        page.look(kept / "serve_phone.png")
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")  # nothing sticks out
        assert page.faults() == []


def test_a_file_is_dropped(browser: Browser, service: Site, files: list[Path]) -> None:
    with opened(browser, service) as page:
        page.until(READY)
        page.drop(files[0])
        page.until(f"{ROWS} === 1")
        assert page.value("document.querySelector('#results .badge').textContent") in ("Anomaly", "Normal")
        assert page.faults() == []


def test_the_keyboard_reaches_everything(browser: Browser, service: Site) -> None:
    with opened(browser, service) as page:
        page.until(READY)
        seen = []
        for _ in range(4):
            page.press("Tab")
            seen.append(page.value("document.activeElement.id || document.activeElement.textContent"))
        assert seen == ["machine", "section", "files", "API"]


def test_the_page_asks_for_the_token(browser: Browser, backend: LocalBackend, files: list[Path]) -> None:
    with site(backend, Limits(), Rules(TOKEN, False)) as running, opened(browser, running) as page:
        page.until("!document.getElementById('token-form').hidden")
        for token, shown in (("wrong", "token-note"), (TOKEN, "about")):
            page.value(f"document.getElementById('token').value = '{token}'")
            page.value("document.querySelector('#token-form button').click()")
            page.until(f"document.getElementById('{shown}').textContent !== ''")
        page.until("!document.getElementById('ask').hidden")
        page.choose("#files", files[0])
        page.until(f"{ROWS} === 1")


def test_the_api_page_needs_no_other_site(browser: Browser, service: Site) -> None:
    with opened(browser, service, "docs") as page:
        page.until("document.querySelectorAll('.operation').length > 8")
        assert "POST /score" in page.value("document.body.innerText")
        assert page.faults() == []


def test_a_service_that_is_gone_is_said(browser: Browser, backend: LocalBackend, files: list[Path]) -> None:
    with ExitStack() as stack:
        with site(backend) as running:
            page = stack.enter_context(opened(browser, running))
            page.until(READY)
        page.choose("#files", files[0])
        page.until("document.getElementById('state').textContent.includes('connection was lost')")
