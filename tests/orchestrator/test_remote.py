"""What is sent to a cluster, what is refused before anything is sent, and what is said where no cluster is."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from orchestrator.errors import ConfigError, ResourceError
from orchestrator.loading import load_study
from orchestrator.remote.cluster import Cluster, _Reader, environment
from orchestrator.remote.order import read_order
from orchestrator.remote.package import pack

STUDY = """
name: far
storage: /shared/results
data: {root: "s3://bucket/factory"}
groups: {mixup: {}}
systems: {mixup: {groups: [mixup]}}
"""
BUCKET = ["storage=s3://bucket/results", "tracking.uri=http://mlflow:5000"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "far.yaml"
    path.write_text(STUDY)
    return path


def test_a_study_file_goes_along_under_another_name(study: Path) -> None:
    order = read_order(["run", str(study), "seeds=2", *BUCKET])
    assert order.words == ["run", "submitted/1-far.yaml", "seeds=2", *BUCKET]
    assert order.files == {"submitted/1-far.yaml": study}
    assert order.study == "far"
    assert read_order(["train", str(study), "--group", "mixup", "--seed", "1"]).words[2:] == [
        "--group", "mixup", "--seed", "1",
    ]  # fmt: skip


def test_a_search_takes_its_study_along(study: Path) -> None:
    search = study.with_name("search.yaml")
    search.write_text("name: s\nstudy: far.yaml\ngroup: mixup\nspace: {backend.clusters: [1, 2]}\nmethod: grid\n")
    order = read_order(["tune", str(search), "trials=2"])
    assert order.words == ["tune", "submitted/1-search.yaml", "trials=2", "study=submitted/study-far.yaml"]
    assert {name: path.resolve() for name, path in order.files.items()} == {
        "submitted/1-search.yaml": search,
        "submitted/study-far.yaml": study,
    }


def test_all_places_of_this_machine_are_refused_at_once(study: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_order(["run", str(ROOT / "configs/studies/demo.yaml")])
    told = str(error.value)
    for field in ("data.root", "storage", "pseudo_labels.truth", "core_set.sources.0.parquet"):
        assert f"- {field}: '" in told
    with pytest.raises(ConfigError, match=r"tracking\.uri: .* lost with it"):
        read_order(["run", str(study), "storage=s3://bucket/results"])
    read_order(["run", str(study), "storage=s3://bucket/results", "tracking.enabled=false"])


@pytest.mark.parametrize("words", [[], ["serve"], ["submit", "--", "run"], ["rm", "-rf"]])
def test_only_jobs_are_sent(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="one of run, plan"):
        read_order(words)


def test_mistakes_in_a_study_are_told_here(study: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean `seeds`"):
        read_order(["run", str(study), "seed=2"])
    with pytest.raises(ConfigError, match="no study file nowhere"):
        read_order(["run", "nowhere.yaml"])


def test_only_code_is_sent(tmp_path: Path) -> None:
    project, into = tmp_path / "project", tmp_path / "into"
    for name in ("models/a.py", "jobs/__pycache__/b.pyc", "configs/x.yaml", "configs/big.bin", ".git/c", "data/d.wav",
                 "results/e", "orchestrator/.hidden", "pyproject.toml"):  # fmt: skip
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(bytes(3 << 20 if name.endswith("bin") else 10))
    with pytest.raises(
        ConfigError, match=r"3\.0 MiB in 4 files, allowed are 1\. .*configs/big\.bin \(3072 KiB\).*--excl"
    ):
        pack(into, {}, limit_mib=1, root=project)
    assert not into.exists()
    extra = {"submitted/1-s.yaml": project / "data/d.wav"}
    package = pack(into, extra, ["configs/*.bin"], limit_mib=1, root=project)
    assert set(package.sizes) == {"models/a.py", "configs/x.yaml", "pyproject.toml", "submitted/1-s.yaml"}
    assert {p.relative_to(into).as_posix() for p in into.rglob("*") if p.is_file()} == set(package.sizes)


def test_what_is_sent_runs_and_knows_its_version(tmp_path: Path) -> None:
    package = pack(tmp_path, {})
    assert package.mib < 5
    script = (
        "from orchestrator.provenance import code_version; import orchestrator; print(code_version(), orchestrator)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"ASD_CODE_VERSION": "abc-dirty"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("abc-dirty")
    assert str(tmp_path) in done.stdout
    for study in Path(tmp_path / "configs/studies").glob("*.yaml"):
        load_study(study)


def test_another_python_is_refused_on_the_cluster(tmp_path: Path) -> None:
    entry = [sys.executable, str(ROOT / "orchestrator/remote/entry.py"), "--help"]
    done = subprocess.run(entry, cwd=ROOT, env={"ASD_PYTHON": "3.8"}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the sender's is 3.8" in done.stderr
    bare = subprocess.run([sys.executable, "-S", *entry[1:]], cwd=ROOT, env={}, capture_output=True, text=True)
    assert bare.returncode == 1
    assert "has no ray, torch" in bare.stderr
    assert "synth" in subprocess.run(entry, cwd=ROOT, env={}, capture_output=True, text=True, check=True).stdout


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "a=b")
    given_ = environment(["HERE", "THERE=c=d"])
    assert (given_["HERE"], given_["THERE"]) == ("a=b", "c=d")
    assert given_["ASD_PYTHON"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(ConfigError, match="--env NOWHERE: not set here"):
        environment(["NOWHERE"])


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 7)), max_size=5))
def test_an_output_that_begins_anew_is_shown_once(text: str, breaks: list[tuple[int, int]]) -> None:
    """Each connection sends the output from its start in pieces and breaks after some characters, but for the last."""
    shown: list[str] = []
    reader = _Reader(shown.append)
    for end, piece in [*breaks, (len(text), 3)]:
        reader.seen = 0
        for at in range(0, min(end, len(text)), piece):
            reader.take(text[at : min(at + piece, end)])
    assert "".join(shown) == text


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """A server on loopback that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_head_that_is_not_there() -> None:
    with answering(200, "") as address:
        pass
    with pytest.raises(ResourceError, match=r"no Ray head answers at .*--address"):
        Cluster(address)


def test_what_is_no_dashboard() -> None:
    with (
        answering(200, "<html>") as address,
        pytest.raises(ResourceError, match="is no Ray dashboard; its port is 8265"),
    ):
        Cluster(address)
    with answering(404, "?") as address, pytest.raises(ResourceError, match="404"):
        Cluster(address)


def test_another_version_of_ray_is_refused() -> None:
    refusal = pytest.raises(ResourceError, match=f"runs Ray 2.9.3, this is {ray.__version__}. Submit .*ray==2.9.3")
    with answering(200, json.dumps({"ray_version": "2.9.3", "version": "4"})) as address, refusal:
        Cluster(address).check_version()
    with answering(200, json.dumps({"ray_version": ray.__version__})) as address:
        Cluster(address).check_version()
