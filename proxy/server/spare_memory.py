"""Gives memory back to the system when nobody has been served for a while.

Must not: free anything itself; it only tells the C library to return what is free already.
Invariant: not while somebody is served, and once for each time that somebody was.

The C library keeps what a busy hour has needed: after 64 responses at once a server holds some 700 MiB of which
nothing is in use. Where its library has no `malloc_trim` (it is glibc's own) nothing happens.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

import structlog

from proxy.server.service import Service

log = structlog.get_logger()
QUIET_S = 4.0


def trim() -> None:
    """Some tenths of a second, without Python's lock."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


async def give_back(service: Service, release: Callable[[], None] = trim) -> None:
    """For ever. release: runs on a thread of its own."""
    given = service.served
    while True:
        await service.idle.wait()
        served = service.served
        await asyncio.sleep(QUIET_S)
        if service.served == served != given and service.idle.is_set():
            await asyncio.to_thread(release)
            given = served
