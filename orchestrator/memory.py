"""Allocators, told when to keep what is freed and when to give it back."""

import ctypes
import gc
import platform

# Numbers of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
ALL_ARENAS = 4096  # MALLCTL_ARENAS_ALL of jemalloc.h
TOP_PAD_BYTES = 256 << 20  # the heap grows in steps of this


def keep_freed_memory() -> bool:
    """Tell glibc to reuse pages, not to fault them in for each tensor (1.9x in scoring on CPU); whether it can be told.

    For a process that does one thing and ends. Farm workers get the same from an allocator that is preloaded.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, TOP_PAD_BYTES), (M_ARENA_MAX, 1))
    mallopt = ctypes.CDLL(None).mallopt
    taken = [mallopt(name, value) == 1 for name, value in settings]  # each is tried
    return all(taken)


def give_back_freed_memory() -> None:
    """Tell jemalloc, where a worker runs on it, to return what it keeps.

    Between members: the freed memory of one fits the next badly, and without this a slot grows by 150 MB a member and
    gets slower.
    """
    gc.collect()  # a CUDA graph, with the memory of a batch, hangs in a cycle
    mallctl = getattr(ctypes.CDLL(None), "mallctl", None)
    if mallctl is not None:
        mallctl(f"arena.{ALL_ARENAS}.purge".encode(), None, None, None, 0)
