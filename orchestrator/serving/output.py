"""How scores of files are written: a table for people, CSV or JSON lines for programs, a row at a time."""

import csv
import json
from collections.abc import Sequence
from typing import IO, Literal

from orchestrator.serving.stream import FileAnswer

Format = Literal["table", "csv", "jsonl"]
COLUMNS = ("file", "machine", "section", "score", "threshold", "decision", "percentile", "problem")


class Writer:
    """Writes rows as they come; the file's name comes last in the table, so that nothing need be cut."""

    def __init__(self, sink: IO[str], kind: Format, machines: Sequence[str]) -> None:
        self.sink, self.kind = sink, kind
        self.width = max(map(len, [*machines, "machine"]))
        self.csv = csv.writer(sink, lineterminator="\n")
        if kind == "csv":
            self.csv.writerow(COLUMNS)
        elif kind == "table":
            self._line("score", "threshold", "decision", "percentile", "machine", "file")

    def write(self, row: FileAnswer) -> None:
        facts = {"file": row.file, **row.answer._asdict()}
        if self.kind == "jsonl":
            self.sink.write(json.dumps(facts) + "\n")
        elif self.kind == "csv":
            self.csv.writerow(["" if facts[name] is None else facts[name] for name in COLUMNS])
        else:
            self._table_row(row)

    def _table_row(self, row: FileAnswer) -> None:
        one, file = row.answer, printable(row.file)
        if one.problem:
            self._line("", "", "problem", "", printable(one.machine), f"{file}: {printable(one.problem)}")
            return
        figures = (f"{one.score:.6g}", f"{one.threshold:.6g}", str(one.decision), f"{one.percentile:.1f}")
        self._line(*figures, one.machine, file)

    def _line(self, score: str, threshold: str, decision: str, percentile: str, machine: str, file: str) -> None:
        self.sink.write(
            f"{score:>12} {threshold:>12} {decision:<8} {percentile:>10}  {machine:<{self.width}}  {file}\n"
        )


def printable(text: str) -> str:
    """Text that a terminal shows as it is: names of files may hold control codes."""
    return text if text.isprintable() else ascii(text)[1:-1]
