"""Memory that was freed, given back to the system.

Blocks come and go with matrices of many sizes, up to 32 MiB of which come from the heap of the C library. glibc keeps
what was freed there, requests for aligned memory often do not fit into the holes, and the heap of a long run grows
although nothing is held: by half a gigabyte over 48 blocks 512 wide. The pages of the holes can be given back.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any


@functools.cache
def _trim() -> Callable[[int], Any] | None:
    """``malloc_trim`` of glibc; None where the C library is another one."""
    try:
        found: Callable[[int], Any] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return None
    return found


def release() -> None:
    """Give the pages of freed memory back to the system; does nothing where the C library cannot.

    Takes some milliseconds for a hundred megabytes; results do not depend on it.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
