"""The page of a study in an object store lies beside its results there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import BUCKET, s3_server

from orchestrator.errors import DataError, StorageError
from orchestrator.report.page import MARK, make_report
from orchestrator.storage import Store


@pytest.fixture(scope="module")
def bucket() -> Iterator[Store]:
    with s3_server():
        yield Store.at(f"s3://{BUCKET}")


def test_a_study_in_a_bucket_has_its_page_there(finished: Path, bucket: Store, tmp_path: Path) -> None:
    for path in finished.rglob("*"):
        if path.is_file() and path.suffix != ".html":
            bucket.child("results", "paper", *path.parent.relative_to(finished).parts).write(
                path.name, path.read_bytes()
            )
    study = bucket.child("results", "paper")
    made = make_report(study.uri, clips=1)
    assert made.place == made.address == f"{study.uri}/report.html"
    assert MARK in study.read("report.html")[:500].decode()
    assert make_report(study.uri, out=str(tmp_path / "here.html"), clips=1).size == pytest.approx(made.size, rel=0.01)
    study.write("report.html", b"mine")
    with pytest.raises(StorageError, match="left alone"):
        make_report(study.uri)
    with pytest.raises(DataError, match="is no study's folder"):
        make_report(f"{bucket.uri}/nothing")
