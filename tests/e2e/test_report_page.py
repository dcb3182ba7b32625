"""The page of a study in a real browser: nothing missing, no error, dark and light, a phone's width, by keyboard."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from browser import DESKTOP, PHONE, Browser
from report_world import write_study
from support import clean_env, command

from orchestrator.report.page import make_report

pytestmark = pytest.mark.e2e

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


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), machines=("fan", LONG))


@pytest.fixture(scope="module")
def page(study: Path) -> Path:
    return Path(make_report(str(study)).place)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_it_loads_whole_and_fits(browser: Browser, page: Path, size: tuple[int, int], dark: bool) -> None:
    with browser.page(page.as_uri(), size, dark) as there:
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
    with browser.page(page.as_uri(), PHONE) as there:
        box = "document.querySelector('#results .scroll')"
        assert there.value(f"{box}.scrollWidth > {box}.clientWidth")
        assert there.value(f"getComputedStyle({box}).overflowX") == "auto"
        assert there.value(f"{box}.tabIndex") == 0  # so that arrow keys can scroll it


def test_it_works_by_keyboard(browser: Browser, page: Path) -> None:
    with browser.page(page.as_uri(), DESKTOP) as there:
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
    with browser.page(page.as_uri(), PHONE, scripts=False) as there:
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
