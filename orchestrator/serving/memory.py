"""The C library's allocator, told to keep what is freed: by default it gives every large tensor back to the kernel."""

import ctypes
import platform

# Numbers of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
TOP_PAD_BYTES = 256 << 20  # the heap grows in steps of this


def keep_freed_memory() -> bool:
    """Reuse pages instead of faulting them in for each tensor (1.9x in scoring on CPU); whether that is possible here.

    For a process that does one thing and ends. Farm workers get the same from an allocator that is preloaded.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, TOP_PAD_BYTES), (M_ARENA_MAX, 1))
    mallopt = ctypes.CDLL(None).mallopt
    taken = [mallopt(name, value) == 1 for name, value in settings]  # each is tried
    return all(taken)
