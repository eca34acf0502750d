"""What canaries ask about a mode that is somebody else's server.

Must not: do anything; it is an interface. Invariant: neither question raises.
"""

from __future__ import annotations

from typing import Protocol

from policies.modes import DecodeMode


class ModeChecks(Protocol):
    """Of all modes that a backend of lanes has. sound: that of the plain lane, against which others are held."""

    @property
    def sound(self) -> DecodeMode: ...

    def tells_hits(self, mode: DecodeMode) -> bool:
        """Whether a response's `cached_tokens` are what the server says of itself."""

    async def unsound(self, mode: DecodeMode) -> str:
        """Why no question needs to be asked in this mode; "" = its server answers."""
