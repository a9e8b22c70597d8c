"""How the C library hands memory out."""

import ctypes

# Numbers of mallopt's parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep memory that is freed, for its next tensors; return whether the C library can.

    By default glibc returns large blocks to the kernel as soon as they are freed, and each new tensor of a network then
    costs a page fault for every 4 KiB. The peak stays the same.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
