"""First thing a submitted job runs: is this the Python that can? No import that may be missing."""

import importlib.util
import os
import runpy
import sys

PYTHON = "ASD_PYTHON"  # the sender's version, such as 3.11
NEEDED = ("ray", "torch", "torchaudio", "mlflow", "pyarrow", "pydantic", "omegaconf", "typer", "rich")


def main():
    """Run `asd` as `python -m jobs` would, or end with what is wrong with this Python."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    wanted = os.environ.get(PYTHON, here)
    if here != wanted:
        sys.exit(
            f"error: the cluster's `{sys.executable}` is Python {here}, the sender's is {wanted}; name another with "
            "`asd submit --python PATH`"
        )
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"error: the cluster's `{sys.executable}` has no {', '.join(missing)}; start Ray where the packages are "
            "installed, or name its Python with `asd submit --python PATH`"
        )
    sys.path[0] = os.getcwd()
    runpy.run_module("jobs", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
