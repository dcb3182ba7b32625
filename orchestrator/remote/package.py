"""The code that goes to a cluster with a command: never data, results or the history."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
PARTS = ("models", "orchestrator", "jobs", "configs", "pyproject.toml")
LIMIT_MIB = 100.0


class Package(NamedTuple):
    """A folder to send."""

    folder: Path
    sizes: dict[str, int]  # bytes, by path in it

    @property
    def mib(self) -> float:
        return sum(self.sizes.values()) / 2**20

    def largest(self, number: int) -> str:
        """The largest files, as a sentence."""
        by_size = sorted(self.sizes, key=lambda name: (-self.sizes[name], name))
        return ", ".join(f"{name} ({self.sizes[name] / 2**10:.0f} KiB)" for name in by_size[:number])


def pack(
    folder: Path,
    files: Mapping[str, Path],
    exclude: Sequence[str] = (),
    limit_mib: float = LIMIT_MIB,
    root: Path = ROOT,
) -> Package:
    """Copy the code below `root`, and `files` by their path in the package, into an empty folder.

    `exclude` are patterns of paths in the package. ConfigError above the limit; then nothing was copied.
    """
    chosen = {name: path for name, path in _code(root) if not any(fnmatch(name, pattern) for pattern in exclude)}
    chosen |= files
    package = Package(folder, {name: path.stat().st_size for name, path in chosen.items()})
    if package.mib > limit_mib:
        raise ConfigError(
            f"the code to send has {package.mib:.1f} MiB in {len(chosen)} files, allowed are {limit_mib:g}. "
            f"The largest: {package.largest(5)}. Leave some out with --exclude 'PATTERN', or allow more (--limit-mib)"
        )
    for name, path in chosen.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / name)
    return package


def _code(root: Path) -> Iterator[tuple[str, Path]]:
    for part in PARTS:
        for path in [root / part] if (root / part).is_file() else sorted((root / part).rglob("*")):
            name = path.relative_to(root).as_posix()
            hidden = any(piece.startswith(".") or piece == "__pycache__" for piece in name.split("/"))
            if path.is_file() and not hidden:
                yield name, path
