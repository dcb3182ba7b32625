"""Runs the install steps of the Dockerfile in a bare Debian folder, for machines without a container engine.

    debootstrap --variant=minbase --include=python3-distutils,python3.11-venv,ca-certificates bookworm ROOT
    python3 docker/replay.py ROOT [--target ray] [VARIANT=cpu ...] [-- COMMAND ...]

ROOT stands in for the base image. Needs root. Every stage runs in the same ROOT, so `COPY --from` has nothing to do:
one fresh ROOT a target. RUN, COPY, ENV, ARG, WORKDIR and USER mean what they mean to docker; layers, ENTRYPOINT and
HEALTHCHECK are not replayed. COMMAND runs at the end as the image's user, with its variables and in its folder.
NAME=VALUE are build arguments.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

CONTEXT = Path(__file__).resolve().parent.parent
MOUNTED = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot --userspec="$1" "$0" sh -c "$2"'
PASSED = re.compile(r"PIP_|SSL_CERT|.*_proxy$", re.IGNORECASE)  # of the caller's environment: how to reach the index


class Stage(NamedTuple):
    base: str
    steps: list[tuple[str, str]]


@dataclass(frozen=True)
class State:
    """What a stage hands to the stages based on it."""

    env: dict[str, str]
    args: dict[str, str]
    folder: str = "/"
    user: str = "0:0"


BARE = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"}


class Replay:
    """The folder that stands for the image, and the state of the stage in hand."""

    def __init__(self, root: Path, given: dict[str, str], arguments: dict[str, str]) -> None:
        self.root, self.given = root, given
        self.state = State(BARE, arguments)

    def step(self, kind: str, rest: str) -> None:
        now = self.state
        if kind == "ARG":
            name, _, default = rest.partition("=")
            value = self.given.get(name, default.strip('"') or now.args.get(name, ""))
            self.state = replace(now, args=now.args | {name: value})
        elif kind == "ENV":
            values = {name: expand(value, now.args | now.env) for name, value in pairs(rest)}
            self.state = replace(now, env=now.env | values)
        elif kind == "WORKDIR":
            self.state = replace(now, folder=rest)
            (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif kind == "USER":
            self.state = replace(now, user=rest, env=now.env | {"HOME": "/home/asd"})
        elif kind == "COPY" and "--from" not in rest:
            self.copy(*rest.split())
        elif kind == "RUN":
            self.run(rest)

    def copy(self, *places: str) -> None:
        *sources, target = places
        into = self.root / os.path.join(self.state.folder, target).lstrip("/")
        for source in (CONTEXT / name for name in sources):
            if source.is_dir():
                shutil.copytree(source, into, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, into)

    def run(self, command: str) -> None:
        print("RUN", command[:160], flush=True)
        started = time.monotonic()
        script = f"cd {shlex.quote(self.state.folder)} && {command}"
        argv = ["unshare", "--mount", "sh", "-c", MOUNTED, str(self.root), self.state.user, script]
        passed = {name: value for name, value in os.environ.items() if PASSED.match(name)}
        arguments = {name: value for name, value in self.state.args.items() if value or name not in passed}
        code = subprocess.run(argv, env=passed | arguments | self.state.env).returncode
        print(f"-> {code} after {time.monotonic() - started:.0f} s", flush=True)
        if code:
            sys.exit(code)


def pairs(text: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (word.partition("=") for word in shlex.split(text))]


def expand(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], ""), text)


def parse(text: str, given: dict[str, str]) -> tuple[dict[str, Stage], dict[str, str]]:
    """The stages by name, and the arguments that stand before the first of them."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    stages: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for kind, rest in (line.strip().split(maxsplit=1) for line in lines if line.strip()):
        if kind == "FROM":
            base, _, name = expand(rest, arguments).partition(" AS ")
            current = stages[name] = Stage(base, [])
        elif stages:
            current.steps.append((kind, rest))
        elif kind == "ARG":
            name, _, default = rest.partition("=")
            arguments[name] = given.get(name, default)
    return stages, arguments


def order(stages: dict[str, Stage], target: str) -> list[str]:
    """The stages that the target is made of, each once, bases first."""
    if target not in stages:
        return []
    copied = [rest.split()[0].removeprefix("--from=") for kind, rest in stages[target].steps if "--from=" in rest]
    needed = [stage for name in (stages[target].base, *copied) for stage in order(stages, name)]
    return list(dict.fromkeys([*needed, target]))


def main(argv: list[str]) -> None:
    end = argv.index("--") if "--" in argv else len(argv)
    words, command = argv[:end], argv[end + 1 :]
    target = words.pop(words.index("--target") + 1) if "--target" in words else "ray"
    given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    stages, arguments = parse((CONTEXT / "docker" / "Dockerfile").read_text(), given)
    replay = Replay(Path(words[0]).resolve(), given, arguments)
    python = replay.root / "usr/local/bin/python"
    if not python.is_symlink():
        python.symlink_to("/usr/bin/python3.11")
    done: dict[str, State] = {}
    for name in order(stages, target):
        print(f"# {name}", flush=True)
        replay.state = done.get(stages[name].base, State(BARE, arguments))
        for kind, rest in stages[name].steps:
            replay.step(kind, rest)
        done[name] = replay.state
    if command:
        replay.run(shlex.join(command))


if __name__ == "__main__":
    main(sys.argv[1:])
