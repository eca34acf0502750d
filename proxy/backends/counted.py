"""What an upstream has counted of a response, where its tokens cannot be counted here.

Must not: hold an estimate. Invariant: what was not told is None.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counted:
    """What an upstream has counted, None = it does not tell. completion: tokens that stand; drafted, accepted: of all
    that was generated."""

    completion: int | None = None
    drafted: int | None = None
    accepted: int | None = None
