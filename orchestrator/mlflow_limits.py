"""What MLflow accepts: names, lengths and numbers; pure functions, without MLflow itself."""

import hashlib
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000  # MLflow's limits, in characters
PARAMS_PER_REQUEST, METRICS_PER_REQUEST = 100, 1000


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Each name as MLflow accepts it; names that would become the same, or are too long, end in a hash of their own."""
    plain = {name: _safe(name) for name in names}
    counts = Counter(plain.values())
    unclear = {name for name, safe in plain.items() if counts[safe] > 1 or len(safe) > NAME_LENGTH}
    return {
        n: f"{safe[: NAME_LENGTH - 17]}-{short_hash(n.encode())}" if n in unclear else safe for n, safe in plain.items()
    }


def _safe(name: str) -> str:
    """Words, dots, dashes and blanks, read as a relative path: MLflow's pages group metrics by its folders."""
    parts = re.sub(r"[^/\w.\- ]", "_", name).split("/")
    path = "/".join(part for part in parts if part not in ("", ".", ".."))
    return re.sub(r"^\.\.+", "_", path) or "unnamed"  # MLflow takes any start of two dots for a parent folder


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def finite_number(value: float) -> float:
    """MLflow keeps NaN as it is, and infinity as the largest float."""
    largest = sys.float_info.max
    return float(value) if math.isnan(value) else min(max(float(value), -largest), largest)


def short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))
