"""A study has one writer: a second run is refused with the first's pid and place."""

import _thread
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import StorageError
from orchestrator.storage import Store, explain_fault

LOCK = "run.lock"
BEAT_SECONDS = 4.0
LEASE_SECONDS = 20.0  # a holder that has not written for so long is gone
SETTLE_SECONDS = 1.0  # two that claim at once see each other after this


@contextmanager
def only_writer(store: Store) -> Iterator[None]:
    """Hold a study's folder for this process; StorageError where another process holds it."""
    with _locked_folder(Path(store.root)) if store.is_local else _leased(store):
        yield


def refusal(place: str, holder: str) -> StorageError:
    return StorageError(
        f"{place} is being written by {holder}; wait for it, stop it, or set another `name=` or `storage=`"
    )


def me() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}"


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """The kernel lets go of the lock when the process ends, however it ends; the file alone means nothing."""
    lock = folder / LOCK
    with explain_fault("write", str(lock)):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            raise refusal(str(folder), holder) from None
        with explain_fault("write", str(lock)):  # a full disk shows here first
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{me()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


class Claim(NamedTuple):
    """What the lock of an object store says: who, which of its runs, and how often it has said so."""

    holder: str
    run: str
    beat: int


@contextmanager
def _leased(store: Store) -> Iterator[None]:
    """An object that its holder writes again every few seconds; one that stands still for a while holds nothing."""
    mine = _claim(store)
    lost, ended = threading.Event(), threading.Event()
    beats = threading.Thread(target=_keep, args=(store, mine, ended, lost), daemon=True)
    beats.start()
    try:
        yield
    except KeyboardInterrupt:
        if lost.is_set():
            raise refusal(store.uri, "another process that took it for abandoned") from None
        raise
    finally:
        ended.set()
        beats.join()
        if not lost.is_set():
            store.remove(LOCK)


def _claim(store: Store) -> Claim:
    first = _read(store)
    if first is not None and not _gone(first):
        limit = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < limit:
            time.sleep(BEAT_SECONDS / 4)
            if (now := _read(store)) is None:
                break
            if now != first:
                raise refusal(store.uri, now.holder)
    mine = Claim(me(), uuid.uuid4().hex, 0)
    store.write_json(LOCK, mine)
    time.sleep(SETTLE_SECONDS)
    if (now := _read(store)) != mine:
        raise refusal(store.uri, now.holder if now else "another process")
    return mine


def _keep(store: Store, mine: Claim, ended: threading.Event, lost: threading.Event) -> None:
    """Write the claim again and again; where another one stands there, end the main thread's work."""
    beat = 0
    while not ended.wait(BEAT_SECONDS):
        with suppress(StorageError):  # a server that is away for a moment; the work itself will say so if it stays away
            now = _read(store)
            if now is not None and now.run != mine.run:
                lost.set()
                _thread.interrupt_main()
                return
            beat += 1
            store.write_json(LOCK, mine._replace(beat=beat))


def _read(store: Store) -> Claim | None:
    try:
        return Claim(*store.read_json(LOCK))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError):
        return Claim("another version of this program", "", 0)


def _gone(claim: Claim) -> bool:
    """Whether the holder was a process of this machine and is no more."""
    words = claim.holder.split()
    if words[:1] != ["pid"] or words[-1] != socket.gethostname() or not words[1].isdigit():
        return False
    with suppress(PermissionError):  # it lives, as somebody else's
        try:
            os.kill(int(words[1]), 0)
        except ProcessLookupError:
            return True
    return False
