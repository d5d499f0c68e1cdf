"""The working memory of a step stays with the process between steps, where a step runs on a CPU.

XLA asks for the memory of a program whenever it runs it, and gives it back at the end. glibc maps so large a block anew
each time, and the kernel clears every page of it when it is first touched: of a step of BERT-mini that is a fifth.
`keep` tells glibc to take all memory from one heap that only grows, so that a step finds the pages of the one before;
`reserve` makes room in it.

Why room: what is free between two blocks that stay is used for small blocks, too, and after one of them it is too
short for the next step, which takes a place of its own, and so on. So each place is a little larger than a step and
fenced in. There are two, since a step may begin before the one before it has given its memory back; a page is taken
when it is touched, so a place that nobody has come to costs nothing. At the most a process so holds the memory of one
step more than a plan says.

Nothing is done elsewhere (no glibc, an accelerator with an allocator of its own): this is about speed alone.
"""

import contextlib
import ctypes
import os
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

# glibc's mallopt: parameters, and what each is set to.
SETTINGS = {
    -8: 1,  # M_ARENA_MAX: all threads share one heap; that of another thread can hold no large block
    -4: 0,  # M_MMAP_MAX: no block is a mapping of its own
    -1: -1,  # M_TRIM_THRESHOLD: what is free at the end of the heap is not given back
}
ACCELERATORS = ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*", "kfd")  # their files in /dev
PLACES = 2
SLACK = 1.05  # a place over the step it is for
FENCE = 1 << 16  # bytes
TRIES = 1 << 12  # fences that fall into free blocks elsewhere before a place is left without one

_kept: list[ctypes.CDLL] = []  # the C library, once it keeps memory


def keep() -> bool:
    """From here on freed memory stays with this process, if it will compute on a CPU; whether it does.

    It must come before JAX starts its threads, since each holds on to the heap that it is given first.
    """
    library = _glibc() if computes_on_cpu() else None
    if library is None or not all(library.mallopt(name, value) for name, value in SETTINGS.items()):
        return False
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    _kept[:] = [library]
    return True


def computes_on_cpu() -> bool:
    """Whether JAX will take the CPU, as far as can be known before it starts."""
    named = os.environ.get("JAX_PLATFORMS", "")
    if named:
        return named.split(",")[0] == "cpu"
    return not any(any(pathlib.Path("/dev").glob(kind)) for kind in ACCELERATORS)


def reserve(programs: Iterable[Any]) -> None:
    """Makes places for the largest of some compiled programs, if memory is kept."""
    for library in _kept:
        size = max(program.memory_analysis().temp_size_in_bytes for program in programs)
        places = [_place(library, int(SLACK * size) + FENCE) for _ in range(PLACES)]
        for place in places:
            library.free(place)


def _place(library: ctypes.CDLL, length: int) -> int | None:
    """A block with a smaller one behind it that is never freed; None where there is no such memory."""
    place: int | None = library.malloc(length)
    if place is None:
        return None
    elsewhere = []
    for _ in range(TRIES):
        fence: int | None = library.malloc(FENCE)
        if fence is not None and 0 <= fence - (place + length) < FENCE:
            break
        elsewhere.append(fence)
    for block in elsewhere:
        library.free(block)
    return place


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(None)
            if hasattr(library, "gnu_get_libc_version"):
                return library
    return None
