"""How much a connection takes from the system at once.

Must not: change what is read, or rely on a loop that has no such setting.
Invariant: whatever the loop, data comes whole and in order; only how it is cut may differ.

asyncio asks for 256 KiB at each read, most of which it gives back at once. The C library gets as much from the kernel
each time, and hands it back: of the 20 us that the read of a short event takes, that is 13. For connections that
mostly bring short events; requests may be long, and are better read in few pieces.
"""

from __future__ import annotations

import asyncio

READ_BYTES = 64 << 10
"""Less than what the C library gets from the kernel (128 KiB)."""


def read_little(transport: asyncio.BaseTransport | None) -> None:
    """From now on. Idempotent; without effect on a transport that reads otherwise."""
    if transport is not None and hasattr(transport, "max_size"):
        transport.max_size = READ_BYTES
