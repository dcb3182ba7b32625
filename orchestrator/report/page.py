"""One HTML file of a study: rendered from templates with every value escaped, and written without harm to others."""

import base64
import hashlib
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.errors import StorageError, UserError
from orchestrator.report.contents import Contents, find_study, read_contents
from orchestrator.report.embeddings import Space, encoder_spaces, reference_space
from orchestrator.report.origins import origins
from orchestrator.report.rows import row_views, table
from orchestrator.report.sounds import Shelf, shelves
from orchestrator.report.stages import core_set, pseudo_labels
from orchestrator.report.training_curves import training_groups
from orchestrator.storage import Store

PAGE = "report.html"
MARK = '<meta name="generator" content="asd report">'  # by which we know a page of ours
MARK_WITHIN = 500  # bytes from the beginning


class Report(NamedTuple):
    """Where the page is, how large, and what it says about what is missing."""

    place: str
    size: int
    notes: list[str]

    @property
    def address(self) -> str:
        """What a browser takes."""
        return self.place if "://" in self.place else Path(self.place).as_uri()


def make_report(study: str, out: str | None = None, clips: int = 2) -> Report:
    """Write the page of a study (a results folder, a URI, or a study file) into its results, or to `out`.

    `clips` sounds of each machine are embedded from either end of the best row's scores. UserError: no study is there,
    or the place holds a file that is no page of ours.
    """
    store = find_study(study)
    target, name = _target(store, out)
    _spare(target, name)
    contents = read_contents(store)
    page = render(contents, clips, datetime.now()).encode()
    target.write(name, page)
    return Report(f"{target.uri}/{name}", len(page), contents.notes)


def _target(store: Store, out: str | None) -> tuple[Store, str]:
    if out is None:
        return store, PAGE
    path = Path(out).expanduser()
    if path.is_dir():
        raise StorageError(f"--out {out} is a folder; name a file in it, such as --out {path / PAGE}")
    return Store.at(path.absolute().parent), path.name


def _spare(target: Store, name: str) -> None:
    """StorageError where a file stands that `asd report` did not write."""
    if target.exists(name) and MARK.encode() not in target.read(name)[:MARK_WITHIN]:
        raise StorageError(
            f"{target.uri}/{name} was not written by `asd report` and is left alone; give another place by --out FILE"
        )


def render(contents: Contents, clips: int, now: datetime) -> str:
    """The whole page as text."""
    environment = Environment(
        loader=PackageLoader("orchestrator.report"),
        autoescape=True,  # names of machines, files and rows are the user's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (
        files(__package__).joinpath("templates", name).read_text("utf-8") for name in ("style.css", "page.js")
    )
    return environment.get_template("page.html").render(
        mark=Markup(MARK),
        style=Markup(style),
        script=Markup(script),
        script_hash=_hash(script),
        **_views(contents, clips, now),
    )


def _hash(script: str) -> str:
    """What the page's content policy names its only script by; no other one runs."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _views(contents: Contents, clips: int, now: datetime) -> dict[str, Any]:
    groups = training_groups(contents)
    sounds, refused, no_sounds = _sounds(contents, clips)
    return {
        "study": contents.study.name,
        "contents": contents,
        "best": contents.best,
        "table": table(contents),
        "rows": row_views(contents),
        "groups": groups,
        "sounds": sounds,
        "refused": refused,
        "no_sounds": no_sounds,
        "spaces": encoder_spaces(contents),
        "references": _references(contents),
        "pseudo": pseudo_labels(contents),
        "core": core_set(contents),
        "origins": origins(contents, groups, now),
        "now": f"{now.astimezone():%Y-%m-%d %H:%M %Z}",
    }


def _sounds(contents: Contents, clips: int) -> tuple[list[Shelf], int, str]:
    """The sounds of the best row, how many did not fit, or why there are none."""
    if contents.best is None:
        return [], 0, "There are no results yet."
    if not clips:
        return [], 0, "The page was made with --clips 0."
    try:
        return *shelves(contents, contents.best, clips), ""
    except UserError as error:
        return [], 0, f"{error}"


def _references(contents: Contents) -> Space | None:
    return reference_space(contents, contents.study.systems[contents.best.name].groups) if contents.best else None
