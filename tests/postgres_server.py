"""A real PostgreSQL server of the system's package, on a free port of loopback."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import free_port

USER = "postgres"  # PostgreSQL refuses to run as root; Debian's package has made this user


def program(name: str) -> str:
    """A program of the package; the test is skipped without."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(places[-1]) if places else None)
    if found is None:
        pytest.skip(f"needs PostgreSQL (`apt-get install postgresql`): there is no {name}")
    return found


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """The address of an empty database, as SQLAlchemy writes it; the server ends with the block."""
    initdb, postgres = program("initdb"), program("postgres")
    home, port = folder / "postgres", free_port()
    home.mkdir()
    who = {}
    if os.geteuid() == 0:
        shutil.chown(home, USER)
        who = {"user": USER, "cwd": "/"}
        for parent in home.parents:  # pytest's folders are for their owner alone
            if parent.stat().st_mode & 0o1 == 0:
                parent.chmod(parent.stat().st_mode | 0o111)
    made = [initdb, "--pgdata", home / "data", "--auth", "trust", "--username", USER, "--no-sync"]
    subprocess.run(made, check=True, capture_output=True, **who)
    line = [postgres, "-D", home / "data", "-p", str(port), "-k", home, "-h", "127.0.0.1", "-F"]
    with (folder / "postgres.log").open("w") as log:
        server = subprocess.Popen(line, stdout=log, stderr=log, **who)
    try:
        limit = time.monotonic() + 60
        while not _answers(port):
            assert server.poll() is None, (folder / "postgres.log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.1)
        yield f"postgresql+psycopg2://{USER}@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)


def _answers(port: int) -> bool:
    psycopg2 = pytest.importorskip("psycopg2", reason="needs psycopg2-binary (the extra `cluster`)")
    try:
        psycopg2.connect(f"host=127.0.0.1 port={port} user={USER} dbname=postgres").close()
    except psycopg2.OperationalError:
        return False
    return True
