"""Image, compose file and KubeRay manifests agree with the project and with themselves; nothing is started."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from support import ROOT

from orchestrator import runtime
from orchestrator.loading import load_study

DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
EXAMPLE = (DOCKER / ".env.example").read_text()
MANIFESTS = sorted((DOCKER / "kuberay").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]
PACKAGES = ("models", "orchestrator", "jobs")
RAY = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())["ray"]
SECRET = re.compile(r"PASSWORD|TOKEN|KEY")
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
QUANTITY = re.compile(r"\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?")
KEPT_OUT = ["data/clip.wav", "results/demo/scores.parquet", ".git/config", ".venv/bin/python", "docker/.env"]
replay = SimpleNamespace(**runpy.run_path(str(DOCKER / "replay.py")))


def _image_env(stage: str) -> dict[str, str]:
    steps = replay.parse(DOCKERFILE, {})[0][stage].steps
    return {name: value for kind, rest in steps if kind == "ENV" for name, value in replay.pairs(rest)}


def _in_context(path: str) -> bool:
    """Docker's rule: the last pattern of .dockerignore that matches the path or a folder above it decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").strip("/")
        if not pattern or pattern.startswith("#"):
            continue
        expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.match(f"{expression}(/|$)", path):
            kept = line.startswith("!")
    return kept


def _ours(image: str) -> bool:
    tag = rf"{re.escape(VERSION)}(-cpu|-cuda|-\$\{{VARIANT:-cpu\}})?"
    return re.fullmatch(f"asd-orchestrator(-mlflow)?:{tag}", image) is not None


@pytest.mark.parametrize("path", KEPT_OUT)
def test_the_build_context_leaves_out(path: str) -> None:
    assert not _in_context(path)


def test_what_the_image_copies_exists_and_is_in_the_build_context() -> None:
    stages, _ = replay.parse(DOCKERFILE, {})
    copies = [rest.split()[:-1] for stage in stages.values() for kind, rest in stage.steps if kind == "COPY"]
    sources = [source for places in copies if not places[0].startswith("--from") for source in places]
    assert {"pyproject.toml", "constraints.txt", "models", "orchestrator", "jobs", "configs"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert _in_context(source), source
        assert not _in_context(f"{source}/__pycache__/x.pyc")


def test_files_beside_the_code_are_installed_with_it() -> None:
    """The image has no checkout: what pyproject.toml does not declare as package data is missing there."""
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    declared = PROJECT["tool"]["setuptools"]["package-data"]
    patterns = [f"{package.replace('.', '/')}/{glob}" for package, globs in declared.items() for glob in globs]
    for path in listed.stdout.split():
        assert path.endswith(".py") or any(fnmatch(path, pattern) for pattern in patterns), path


@pytest.mark.parametrize(("variant", "other"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_variant_is_made_of_its_own_stages(variant: str, other: str) -> None:
    stages, _ = replay.parse(DOCKERFILE, {"VARIANT": variant})
    made = replay.order(stages, "ray")
    assert list(stages)[-1] == made[-1] == "ray"  # the default target
    assert {"base", "builder", f"builder-{variant}", "built", f"runtime-{variant}"} < set(made)
    assert not {f"builder-{other}", f"runtime-{other}", "mlflow-builder"} & set(made)


@pytest.mark.parametrize("target", ["ray", "mlflow"])
def test_an_image_runs_as_a_plain_user_under_tini_with_a_health_check(target: str) -> None:
    stages, _ = replay.parse(DOCKERFILE, {})
    steps = dict(stages[target].steps)
    assert steps["USER"] == "1000:1000"
    assert "HEALTHCHECK" in steps
    assert json.loads(dict(stages["base"].steps)["ENTRYPOINT"]) == ["tini", "-g", "--"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", stages["base"].base)


def test_the_image_sets_what_a_run_sets_on_a_bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    image = _image_env("ray")
    assert image["MALLOC_CONF"] == runtime.worker_environment()["MALLOC_CONF"]
    assert "jemalloc" in image["LD_PRELOAD"]
    for name, value in re.findall(r'setdefault\("(RAY_\w+)", "([^"]+)"\)', Path(runtime.__file__).read_text()):
        assert image[name] == value, name


def test_the_version_is_the_project_s_everywhere() -> None:
    assert f'image.version="{VERSION}"' in DOCKERFILE
    text = DOCKERFILE + "".join(
        path.read_text() for path in (DOCKER / "README.md", DOCKER / "compose.yaml", *MANIFESTS)
    )
    assert set(re.findall(r"asd-orchestrator(?:-mlflow)?:([\d.]*\d)", text)) == {VERSION}


def test_services_name_what_exists() -> None:
    for name, service in SERVICES.items():
        assert set(service["networks"]) <= set(COMPOSE["networks"]), name
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"]), name
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES, name
            ends, checked = SERVICES[other]["restart"] == "no", "healthcheck" in SERVICES[other]
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy"), name
            assert ends or checked or _ours(SERVICES[other]["image"]), f"{name} waits for {other}"
        if "build" in service:
            stages, arguments = replay.parse(DOCKERFILE, {})
            assert service["build"].get("target", "ray") in stages
            declared = {rest.split("=")[0] for stage in stages.values() for kind, rest in stage.steps if kind == "ARG"}
            assert set(service["build"]["args"]) <= declared | set(arguments), name


def test_services_are_pinned_confined_and_published_on_this_machine_only() -> None:
    for name, service in SERVICES.items():
        image = service["image"]
        assert _ours(image) or re.fullmatch(r"[a-z/]+:\d+\.\d+[\w.-]*", image), f"{name}: {image}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service.get("user", "1000:1000").split(":")[0] != "0", name
        assert not service.get("privileged"), name


def test_every_variable_is_explained_and_no_secret_has_a_default() -> None:
    text = "\n".join(line.split("  #")[0] for line in (DOCKER / "compose.yaml").read_text().splitlines())
    explained = dict(re.findall(r"(?m)^#?([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE))
    used = {name: (kind, word) for name, kind, word in VARIABLE.findall(text)}
    assert set(used) == set(explained)
    for name, (kind, word) in used.items():
        assert kind, f"{name} has neither a default nor a demand"
        assert (kind == "?") == bool(SECRET.search(name)), name
        assert explained[name] == ("" if kind == "?" else word), name
    assert re.search(r"(?m)^\.env$", (DOCKER / ".gitignore").read_text())


def _compose() -> list[str]:
    beside = shutil.which("docker-compose", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for words in (["docker", "compose"], [beside or ""]):
        if shutil.which(words[0]) and b"v2." in subprocess.run([*words, "version"], capture_output=True).stdout:
            return words
    pytest.skip("needs `docker compose` 2; no daemon")


def test_docker_compose_accepts_the_file_and_demands_the_secrets(tmp_path: Path) -> None:
    words = [*_compose(), "--file", str(DOCKER / "compose.yaml"), "--profile", "*", "--env-file"]
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "DOCKER_CONFIG")}
    files = tmp_path / "empty.env", tmp_path / "full.env"
    files[0].write_text(EXAMPLE)
    files[1].write_text(re.sub(r"(?m)^([A-Z]\w+)=$", r"\1=x", EXAMPLE) + "VARIANT=cuda")
    refused, accepted = (
        subprocess.run([*words, str(file), "config", "--format", "json"], capture_output=True, text=True, env=env)
        for file in files
    )
    assert refused.returncode
    assert "in docker/.env" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr
    services = json.loads(accepted.stdout)["services"]
    assert set(services) == set(SERVICES)
    assert services["head"]["image"] == f"asd-orchestrator:{VERSION}-cuda"
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {(port["host_ip"], port["published"]) for port in ports} == {("127.0.0.1", "8265"), ("127.0.0.1", "5000")}


def _cluster(path: Path) -> dict:
    spec = yaml.safe_load(path.read_text())["spec"]
    return spec.get("rayClusterSpec", spec)


def _containers(path: Path) -> Iterator[tuple[dict, dict]]:
    """Pod spec and Ray container of each group."""
    cluster = _cluster(path)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        yield pod, pod["containers"][0]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_is_of_this_ray_and_image_with_limits(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    assert (manifest["apiVersion"], manifest["kind"].lower()) == ("ray.io/v1", path.stem)
    assert _cluster(path)["rayVersion"] == RAY
    assert _cluster(path)["authOptions"] == {"mode": "token"}
    for pod, container in _containers(path):
        assert _ours(container["image"]), container["image"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == container["image"].endswith("-cuda")
        assert pod["securityContext"]["runAsUser"] == 1000
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        for amounts in container["resources"].values():
            assert {"cpu", "memory"} <= set(amounts)
            assert all(QUANTITY.fullmatch(str(amount)) for amount in amounts.values()), amounts
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_numbers_of_a_manifest_are_numbers_and_start_parameters_are_text(path: Path) -> None:
    cluster = _cluster(path)
    groups = cluster["workerGroupSpecs"]
    assert len({group["groupName"] for group in groups}) == len(groups)
    for group in groups:
        bounds = [group[name] for name in ("minReplicas", "replicas", "maxReplicas")]
        assert all(type(bound) is int for bound in bounds)
        assert bounds == sorted(bounds)
    for group in (cluster["headGroupSpec"], *groups):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for _, container in _containers(path):
        assert all(type(port["containerPort"]) is int for port in container.get("ports", []))
        for probe in ("readinessProbe", "livenessProbe"):
            assert all(type(value) is int for name, value in container[probe].items() if name != "httpGet")
            assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}


def test_the_job_runs_a_shipped_study_with_valid_overrides() -> None:
    spec = yaml.safe_load((DOCKER / "kuberay" / "rayjob.yaml").read_text())["spec"]
    program, job, study, *overrides = shlex.split(spec["entrypoint"])
    assert (program, job) == ("asd", "run")
    checked = load_study(ROOT / Path(study).relative_to("/app"), overrides)
    assert checked.storage.startswith("s3://")
    assert checked.tracking.uri
    assert type(spec["backoffLimit"]) is type(spec["ttlSecondsAfterFinished"]) is int


def test_the_readme_names_services_and_files_that_exist() -> None:
    text = (DOCKER / "README.md").read_text()
    for service in re.findall(r"(?:exec|logs|restart|--scale) (?:-\w+ )*([a-z-]+)", text):
        assert service in SERVICES, service
    for path in re.findall(r"docker/[\w./-]*\w", text):
        assert (ROOT / path).exists() or path == "docker/.env", path
