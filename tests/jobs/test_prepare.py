"""`asd prepare` as a user meets it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from archive_server import ArchiveServer, dev_archive, eval_archive
from typer.testing import CliRunner

from jobs.prepare import prepare
from jobs.scan import scan
from orchestrator.errors import DataError


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    server = ArchiveServer()
    server.publish("11", {"dev_fan.zip": dev_archive("fan"), "dev_valve.zip": dev_archive("valve", 30)})
    server.publish("33", {"eval_data_fan_test.zip": eval_archive("fan")})
    yield server
    server.close()


@pytest.fixture
def table(server, tmp_path) -> Path:
    rows = ["year,subset,machine,url"]
    rows += [f"2024,dev,{name},{server.url(f'/records/11/files/dev_{name}.zip')}" for name in ("fan", "valve")]
    rows += [f"2024,eval,fan,{server.url('/records/33/files/eval_data_fan_test.zip')}"]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "table.csv"


def invoke(*args, job=prepare):
    app = typer.Typer()
    app.command()(job)
    return CliRunner().invoke(app, [str(arg) for arg in args])


def arguments(server, table, into, *more) -> list:
    return [2024, "--into", into, "--table", table, "--api", server.url("/api"), *more]


def test_a_subset_is_fetched_and_the_next_commands_are_told(server, table, tmp_path):
    into = tmp_path / "data"
    result = invoke(*arguments(server, table, into, "--subset", "dev"))
    assert result.exit_code == 0, result.output
    assert result.output.endswith(
        f"2 of 2 archives are unpacked in {into}\ntruth of 4 test clips: {into}/truth.csv; 0 unknown\n"
        f"Next: asd scan {into}\nthen: asd run configs/studies/table1.yaml data.root={into}\n"
    )
    scanned = invoke(into, "--min-seconds", 0.05, job=scan)
    assert scanned.exit_code == 0, scanned.output
    assert "8 clips, 0 of them bad" in scanned.output


def test_a_dry_run_lists_and_fetches_nothing(server, table, tmp_path):
    into = tmp_path / "data"
    result = invoke(*arguments(server, table, into, "--subset", "dev", "--machine", "fan", "--dry-run"))
    assert result.exit_code == 0, result.output
    assert "dev_fan.zip" in result.output
    assert "missing" in result.output
    assert "dev_valve.zip" not in result.output
    assert not into.exists()
    assert not any(path.endswith(".zip") for path, _ in server.asked)


def test_what_is_missing_is_listed_and_the_exit_code_tells(server, table, tmp_path):
    into = tmp_path / "data"
    del server.files["/records/11/files/dev_fan.zip"]
    result = invoke(*arguments(server, table, into, "--subset", "dev"))
    assert result.exit_code == 1
    assert "missing: dev fan: cannot download dev_fan.zip" in result.output
    assert "HTTP 404 Not Found" in result.output
    assert f"1 of 2 archives are unpacked in {into}" in result.output
    assert "run the same command again" in result.output


def test_the_truth_is_joined_and_handed_on(server, table, tmp_path):
    into, truth = tmp_path / "data", tmp_path / "given.csv"
    truth.write_text(
        "machine,file_name,is_anomaly,is_target\nfan,section_00_0001.wav,1,0\nfan,section_00_0002.wav,0,1\n"
    )
    result = invoke(*arguments(server, table, into, "--subset", "dev", "--subset", "eval", "--truth", truth))
    assert result.exit_code == 0, result.output
    assert f"truth of 6 test clips: {into}/truth.csv; 0 unknown" in result.output
    assert f"Next: asd scan {into} --truth {into}/truth.csv\n" in result.output
    assert f"data.root={into} data.truth={into}/truth.csv\n" in result.output
    scanned = invoke(into, "--truth", into / "truth.csv", "--min-seconds", 0.05, job=scan)
    assert scanned.exit_code == 0, scanned.output
    again = invoke(*arguments(server, table, into, "--subset", "truth", "--truth", truth))
    assert again.exit_code == 0, again.output
    assert "archives" not in again.output


def test_archives_on_a_disk_are_used_without_a_network(server, table, tmp_path):
    into, disk = tmp_path / "data", tmp_path / "disk"
    disk.mkdir()
    (disk / "dev_fan.zip").write_bytes(server.files["/records/11/files/dev_fan.zip"])
    args = arguments(server, table, into, "--subset", "dev", "--machine", "fan", "--from", disk)
    server.close()
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    assert "MD5 sum not checked" in result.output


def test_a_mirror_is_asked_first(server, table, tmp_path):
    server.files["/mirror/11/dev_fan.zip"] = server.files["/records/11/files/dev_fan.zip"]
    mirror = server.url("/mirror/{record}/{file}")
    args = arguments(server, table, tmp_path / "data", "--subset", "dev", "--machine", "fan", "--mirror", mirror)
    assert invoke(*args, "--no-keep").exit_code == 0
    assert [path for path, _ in server.asked if path.endswith(".zip")] == ["/mirror/11/dev_fan.zip"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["twenty"], "valid: a year such as 2024, or audioset"),
        (["1999"], "There are: 2020, 2021, 2022, 2023, 2024, 2025, 2026"),
        (["2024", "--subset", "test"], "no subset 'test'.* There are: additional, dev, eval"),
        (["2024", "--machine", "Toycar"], "did you mean ToyCar"),
        (["2024", "--subset", "truth"], "asd prepare 2024 --subset truth --truth FILE --into data/dcase2024"),
        (["audioset"], "--segments CSV"),
    ],
)
def test_what_cannot_be_prepared_is_explained(args, message):
    result = invoke(*args)
    assert isinstance(result.exception, DataError)
    with pytest.raises(DataError, match=message):
        raise result.exception


def test_what_is_there_of_audioset_is_reported(tmp_path):
    segments, audio = tmp_path / "segments.csv", tmp_path / "audio"
    segments.write_text('here, 0.000, 10.000, "/m/02mk9"\ngone, 0.000, 10.000, "/m/02mk9"\n')
    audio.mkdir()
    (audio / "here.wav").write_bytes(b"")
    result = invoke("audioset", "--segments", segments, "--audio", audio, "--missing", tmp_path / "missing.csv")
    assert result.exit_code == 0, result.output
    assert "1 of 2 listed clips are there, 1 are missing\nmissing: gone\n" in result.output
    assert f"'core_set.sources=[{{audio: {audio}, segments: {segments}}}]'" in result.output
    assert "gone,/m/02mk9" in (tmp_path / "missing.csv").read_text()


def test_importing_the_job_loads_nothing_heavy():
    code = "import sys, jobs.prepare; print({'torch', 'ray', 'pyarrow', 'numpy', 'urllib.request'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
