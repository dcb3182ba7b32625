"""Decode all recordings once, on the cluster, into arrays that every slot of a node reads without a copy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import ray

from orchestrator.data.clips import read_clips
from orchestrator.data.packing import Part, pack


class Decoded(NamedTuple):
    """The clip table with what decoding found out, and one object-store array of usable waveforms a machine."""

    clips: pa.Table
    parts: list["ray.ObjectRef[Part]"]

    def usable(self) -> pa.Table:
        """The rows that the parts hold, in their order: the rows of the bank."""
        return self.clips.filter(pc.equal(self.clips["problem"], ""))


@ray.remote(num_returns=2, max_retries=5)
def _decode_machine(rows: pa.Table, min_seconds: float) -> tuple[pa.Table, Part]:
    # Tasks return the arrays, so that they are born in the object store and made again if a node is lost.
    table, waves = read_clips(rows, min_seconds)
    return table, pack([wave for wave, bad in zip(waves, table["problem"].to_pylist(), strict=True) if not bad])


def decode_on_ray(found: pa.Table, min_seconds: float) -> Decoded:
    """Read every file once: a task a machine; the waveforms stay on the cluster, the driver gets the tables."""
    machines: Sequence[str] = sorted(set(found["machine"].to_pylist()))
    tasks: list[Any] = [
        _decode_machine.remote(found.filter(pc.equal(found["machine"], machine)), min_seconds) for machine in machines
    ]
    tables = ray.get([table for table, _ in tasks])
    return Decoded(pa.concat_tables(tables), [part for _, part in tasks])
