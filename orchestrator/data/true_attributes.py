"""Attributes that were hidden during the challenge and published after it: they judge pseudo-labels, nothing else."""

import csv
import io
from pathlib import Path

from orchestrator.data.dcase import parse_name
from orchestrator.errors import DataError
from orchestrator.storage import read_file

FORMS = (("machine", "file_name", "true_attribute"), ("machine", "released_file_name", "true_file_name"))


def read_true_attributes(path: str | Path) -> dict[tuple[str, str], str]:
    """The true attribute of clips by (machine, file name without suffix).

    A CSV with machine,file_name,true_attribute, or with machine,released_file_name,true_file_name as for DCASE 2024.
    DataError where the file or a column is missing.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_file(path).decode("utf-8-sig"), newline=""))
    except (OSError, UnicodeDecodeError):
        raise DataError(f"pseudo_labels.truth: no CSV {path}; unset it, or give one of {', '.join(FORMS[0])}") from None
    forms = [form for form in FORMS if set(form) <= set(reader.fieldnames or ())]
    if not forms:
        raise DataError(f"{path}:1: needs the columns {', '.join(FORMS[0])}")
    machine, name, truth = forms[0]
    named = forms[0] is FORMS[1]
    return {(row[machine], Path(row[name]).stem): _attribute(row[truth]) if named else row[truth] for row in reader}


def _attribute(file_name: str) -> str:
    return parse_name(file_name, "train" if "_train_" in file_name else "test").attribute
