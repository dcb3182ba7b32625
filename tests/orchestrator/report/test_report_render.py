"""The page as text: figures as in `asd compare`, all names escaped, studies that lack something, and no file harmed."""

import base64
import hashlib
import re
import shutil
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.compare import best_cells, cells, compare
from orchestrator.errors import ConfigError, DataError, StorageError, UserError
from orchestrator.report.contents import Contents, read_contents
from orchestrator.report.page import MARK, make_report, render
from orchestrator.report.rows import comparison, table
from orchestrator.report.stages import core_set, pseudo_labels
from orchestrator.storage import Store

NOW = datetime(2026, 1, 2, 3, 4)


class Elements(HTMLParser):
    """Counts elements, collects ids and all text, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.hrefs: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [] if tag in self.VOID else [tag]
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        self.hrefs += [given["href"]] if "href" in given else []
        self.sources += [given["src"]] if "src" in given else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def page(contents: Contents) -> str:
    return render(contents, 1, NOW)


def copy(study: Path, to: Path) -> Path:
    return Path(shutil.copytree(study, to / "copy"))


def test_the_table_is_that_of_compare(contents: Contents, finished: Path) -> None:
    ours, theirs = comparison(contents), compare([finished])
    assert cells(ours) == cells(theirs)
    assert best_cells(ours) == best_cells(theirs)
    assert ours.unlabelled == theirs.unlabelled
    shown = table(contents)
    assert [[cell.text for cell in row.cells] for row in shown.rows] == [
        [f"{value:.2f}" for value in (*row.machines.values(), row.official)] for row in theirs.rows
    ]
    assert {(i, j + 2) for i, row in enumerate(shown.rows) for j, cell in enumerate(row.cells) if cell.best} == (
        best_cells(theirs)
    )
    assert [row.cells[-1].published for row in shown.rows] == ["", "", "", "67.05"]


def test_names_never_become_markup(page: str) -> None:
    found = Elements(page)
    assert found.tags.count("script") == 1
    assert "<script>alert(1)<" in found.text
    assert "pump & \"co'" in found.text
    assert "all <members> & more" in found.text
    assert "members" not in found.tags
    assert len(found.ids) == len(set(found.ids))
    assert {href for href in found.hrefs if href.startswith("#")} <= {f"#{name}" for name in found.ids}


def test_nothing_comes_from_elsewhere(page: str) -> None:
    found = Elements(page)
    assert all(href.startswith(("#", "data:")) for href in found.hrefs)
    assert all(source.startswith("data:") for source in found.sources)
    assert not re.search(r"url\(|@import|https?://", page)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    known = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{known}'" in page


def test_all_parts_are_there(page: str) -> None:
    text = Elements(page).text
    for words in (
        "④ MR+SL+Mixup+PA",
        "AUC source",
        "row without",
        "By pseudo-label",
        "last loss",
        "Least anomalous",
        "Mechanical fan (3)",
        "too short: 0.1 s",
        "Label sets of",
        "fingerprint of the training data",
        "name: paper",
        "2026-01-02 03:04",
    ):
        assert words.replace(" ", " ") in text.replace("\xa0", " "), words


def test_without_truth_scores_are_shown_and_the_lack_is_said(blind: Path) -> None:
    found = render(read_contents(Store.at(blind)), 1, NOW)
    text = Elements(found).text
    assert "data.truth=FILE" in text
    assert "16 domain unknown unknown" in found
    assert "No ROC" in text
    assert "truth unknown, called" in text


def test_a_study_that_has_only_begun(begun: Path) -> None:
    contents = read_contents(Store.at(begun))
    assert contents.rows == []
    text = Elements(render(contents, 1, NOW)).text
    assert "4 of 4 rows have no results yet" in text
    assert "There are no results yet" in text
    assert "The external clips have not been chosen yet" in text
    assert "2 of 2 trained" in text  # the members that are there are shown


def test_rows_that_are_there_are_shown_beside_those_that_are_not(finished: Path, tmp_path: Path) -> None:
    study = copy(finished, tmp_path)
    shutil.rmtree(study / "systems" / "all")
    contents = read_contents(Store.at(study))
    assert [row.name for row in contents.rows] == ["mse", "plain", "pa"]
    assert contents.missing == ["all <members> & more"]
    assert "1 of 4 rows have no results yet" in Elements(render(contents, 0, NOW)).text


def test_a_study_file_alone_gives_a_page(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "study.yaml", tmp_path)
    text = Elements(render(read_contents(Store.at(tmp_path)), 1, NOW)).text
    assert "No recording has been read yet" in text


def test_without_the_external_audio_the_core_set_is_still_shown(finished: Path, tmp_path: Path) -> None:
    study = copy(finished, tmp_path)
    text = (study / "study.yaml").read_text()
    (study / "study.yaml").write_text(re.sub(r"- .*/external\n", "- /gone/external\n", text))
    contents = read_contents(Store.at(study))
    assert any("external audio cannot be read" in note for note in contents.notes)
    found = core_set(contents)
    assert dict(found.figures)["kept"] == 3
    assert "whether it is up to date" in found.note
    text = Elements(render(contents, 0, NOW)).text
    assert "the members of group pa-as are not known" in text


def test_stages_that_a_study_does_not_have(contents: Contents) -> None:
    groups = {"plain": contents.study.groups["plain"]}
    systems = {"plain": contents.study.systems["plain"]}
    plain = contents.study.model_copy(update={"groups": groups, "systems": systems, "core_set": None})
    other = contents._replace(study=plain)
    assert core_set(other).note == "No group of this study uses external audio."
    assert pseudo_labels(other).note == "No group of this study uses pseudo-labels."


def test_labellings_and_kept_clips(contents: Contents) -> None:
    (found,) = pseudo_labels(contents).labellings
    assert sum(clips for _, clips in found.sizes) == int(found.figures[0]) == 16
    assert found.picture.startswith("data:image/png;base64,")
    (kept,) = core_set(contents).kept
    assert (kept.machine, kept.limit, kept.clips) == ("<script>alert(1)<", "0.2", 3)


def test_the_page_goes_into_the_results_and_replaces_only_itself(finished: Path, tmp_path: Path) -> None:
    study = copy(finished, tmp_path)
    made = make_report(str(study), clips=0)
    assert Path(made.place) == study / "report.html"
    assert made.address == (study / "report.html").as_uri()
    assert make_report(str(study / "study.yaml"), clips=0).size == made.size  # our own page is written anew
    foreign = tmp_path / "notes.html"
    foreign.write_text("mine")
    with pytest.raises(StorageError, match="left alone; give another place by --out FILE"):
        make_report(str(study), out=str(foreign))
    assert foreign.read_text() == "mine"
    with pytest.raises(StorageError, match=r"is a folder; name a file in it, such as --out .*report\.html"):
        make_report(str(study), out=str(tmp_path))
    assert MARK in Path(make_report(str(study), out=str(tmp_path / "new" / "page.html"), clips=0).place).read_text()


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("results/nothing", DataError, "does not exist. Give results/<study>, made by `asd run`"),
        ("", DataError, "has no study.yaml"),
        ("none.yaml", ConfigError, "no study file"),
        ("a.txt", DataError, "it is a file"),
    ],
)
def test_a_wrong_place_says_what_would_be_right(
    place: str, error: type[UserError], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(error, match=re.escape(message)):
        make_report(str(tmp_path / place))


def test_results_of_another_version_are_named_as_such(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text((finished / "study.yaml").read_text() + "\nearlier_key: 1\n")
    with pytest.raises(DataError, match=r"(?s)earlier_key: unknown key.*Another version"):
        make_report(str(tmp_path))


def test_a_study_file_leads_to_its_results(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((finished / "study.yaml").read_text())
    assert Path(make_report(str(path), clips=0).place) == finished / "report.html"
    path.write_text(path.read_text().replace("name: paper", "name: other"))
    with pytest.raises(DataError, match=r"nothing of this study .* run `asd run .*mine\.yaml` first"):
        make_report(str(path))
