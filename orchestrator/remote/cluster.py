"""Ray Jobs: reach a cluster, send a command, follow it, end it; and what can go wrong there, in words."""

import asyncio
import logging
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import aiohttp
import ray
import requests
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from orchestrator.errors import ConfigError, ResourceError, first_line
from orchestrator.provenance import CODE_VERSION, code_version
from orchestrator.remote.entry import PYTHON
from orchestrator.remote.order import Order
from orchestrator.remote.package import Package
from orchestrator.runtime import knock

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
OURS = "asd-study"  # in the metadata of our jobs
AGAIN_SECONDS = 2.0
LOST_SECONDS = 120.0  # a head may be away so long while a job is followed
STOP_SECONDS = 60.0
READY_SECONDS = 60.0


class Ended(NamedTuple):
    """How a job ended."""

    status: str  # SUCCEEDED, FAILED or STOPPED
    exit_code: int  # of the command; 1 where there is none
    message: str


class Cluster:
    """The Jobs interface of one Ray cluster; every fault is a ResourceError."""

    def __init__(self, address: str | None) -> None:
        """`address` is the dashboard's, such as http://HEAD:8265; unset: RAY_API_SERVER_ADDRESS, then this machine."""
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
        logging.getLogger("ray").setLevel(logging.ERROR)
        self.address = address if "://" in address else f"http://{address}"
        with self._explained():
            knock(self.address)
            self._client = self._connect()

    def _connect(self) -> JobSubmissionClient:
        """With the token of ~/.ray/auth_token where one is asked for, as `ray.init` does."""
        try:
            return JobSubmissionClient(self.address)
        except AuthenticationError:
            if "RAY_AUTH_MODE" in os.environ or not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
                raise
            return JobSubmissionClient(self.address)

    def check_version(self) -> None:
        """ResourceError where the cluster's Ray is not this one: its workers could not join the job's."""
        version = self._client._server_ray_version
        if version != ray.__version__:
            raise ResourceError(
                f"the cluster at {self.address} runs Ray {version}, this is {ray.__version__}. Submit from an "
                f"environment with ray=={version}, or start the cluster with ray=={ray.__version__}"
            )

    def submit(self, order: Order, package: Package, env: Mapping[str, str], python: str) -> str:
        """Send a command with its code; returns the job's id."""
        name = "-".join(["asd", order.words[0], *([order.study] if order.study else []), os.urandom(3).hex()])
        words = shlex.join([python, "orchestrator/remote/entry.py", *order.words])
        runtime_env = {"working_dir": str(package.folder), "env_vars": dict(env)}
        with self._explained():
            return self._when_ready(
                entrypoint=words, submission_id=name, runtime_env=runtime_env, metadata={OURS: order.study}
            )

    def _when_ready(self, **job: Any) -> str:
        """Submit; a head that has just started answers a while before it takes jobs."""
        limit = time.monotonic() + READY_SECONDS
        while True:
            try:
                return self._client.submit_job(**job)
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > limit:
                    raise
            time.sleep(1)

    def jobs(self) -> list[JobDetails]:
        """Jobs that `asd submit` sent, the latest first."""
        with self._explained():
            ours = [job for job in self._client.list_jobs() if job.submission_id and OURS in (job.metadata or {})]
        return sorted(ours, key=lambda job: -(job.start_time or 0))

    def follow(self, job: str, write: Callable[[str], None]) -> Ended:
        """Pass a job's output on, from its start to its end, also over connections that break."""
        reader, lost_since = _Reader(write), None
        self.ended(job)  # says so where there is no such job
        while True:
            try:
                asyncio.run(self._tail(job, reader))
                if (ended := self.ended(job)) is not None:
                    return ended
                lost_since = None
            except (aiohttp.ClientError, OSError, RuntimeError, ResourceError) as error:
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > LOST_SECONDS:
                    raise ResourceError(
                        f"the cluster at {self.address} was lost ({first_line(error)}); the job may go on there: "
                        f"asd jobs follow {job} --address {self.address}"
                    ) from error
            time.sleep(AGAIN_SECONDS)

    async def _tail(self, job: str, reader: "_Reader") -> None:
        reader.seen = 0
        async for text in self._client.tail_job_logs(job):
            reader.take(text)

    def ended(self, job: str) -> Ended | None:
        """How a job ended; None while it has not."""
        with self._explained(job):
            details = self._client.get_job_info(job)
        if not details.status.is_terminal():
            return None
        code = 0 if details.status == JobStatus.SUCCEEDED else details.driver_exit_code or 1
        return Ended(str(details.status.value), code, details.message or "")

    def stop(self, job: str) -> Ended:
        """End a job and wait until it is; what it finished stays, and submitting it again goes on."""
        with self._explained(job):
            self._client.stop_job(job)
        limit = time.monotonic() + STOP_SECONDS
        while (ended := self.ended(job)) is None:
            if time.monotonic() > limit:
                raise ResourceError(f"job {job} goes on {STOP_SECONDS:.0f} s later; try `asd jobs stop {job}` again")
            time.sleep(0.5)
        return ended

    @contextmanager
    def _explained(self, job: str = "") -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise ResourceError(
                f"the cluster at {self.address} wants another token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN "
                f"(or RAY_AUTH_TOKEN_PATH) to the cluster's ({first_line(error)})"
            ) from error
        except (requests.JSONDecodeError, KeyError) as error:
            raise ResourceError(
                f"what answers at {self.address} is no Ray dashboard; its port is 8265 unless `ray start` was told "
                "another (6379 is for cluster.address)"
            ) from error
        except (requests.RequestException, OSError, ValueError) as error:
            raise ResourceError(
                f"no Ray head answers at {self.address}: {first_line(error)}. Start one with `ray start --head`, or "
                "name its dashboard: --address http://HEAD:8265"
            ) from error
        except RuntimeError as error:
            if job and "404" in str(error):
                raise ResourceError(f"no job {job} at {self.address}; `asd jobs list` names them") from error
            raise ResourceError(f"the cluster at {self.address} refused: {first_line(error)[:500]}") from error


class _Reader:
    """Shows an output once that is sent from its start again after every lost connection."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write, self.shown, self.seen = write, 0, 0

    def take(self, text: str) -> None:
        fresh = text[max(0, self.shown - self.seen) :]
        self.seen += len(text)
        if fresh:
            self.write(fresh)
            self.shown = self.seen


def environment(asked: Sequence[str]) -> dict[str, str]:
    """Variables of the job: KEY=VALUE, or KEY for this process's own value; ConfigError where that is not set."""
    pairs = {}
    for item in asked:
        key, equals, value = item.partition("=")
        if not equals and key not in os.environ:
            raise ConfigError(f"--env {key}: not set here; give --env {key}=VALUE")
        pairs[key] = value if equals else os.environ[key]
    # an interrupt lets Ray Train give its reservation back; after a kill the next job waits 3 minutes for it
    stop = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_SECONDS / 2:.0f}"}
    return pairs | stop | {PYTHON: ".".join(platform.python_version_tuple()[:2]), CODE_VERSION: code_version()}
