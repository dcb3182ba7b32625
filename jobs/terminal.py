"""Where jobs print."""

from rich.console import Console


def terminal() -> Console:
    """The terminal, or a wide page where there is none: a pipe or a log has no width and would cut tables."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(width=160, highlight=False, markup=False)
