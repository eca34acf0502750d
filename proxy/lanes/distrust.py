"""A lane that matches a known-bad pair serves nobody until its canaries have passed, one context bucket after another.

Must not: decide what is sound; canaries do. Invariant: the plain lane is never taken out of service here, since nothing
is left below it.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from policies.accusation import Axis
from policies.breaker import EDGES
from policies.modes import DecodeMode
from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.known_bad import KnownBad, distrusted
from proxy.trust.keeper import TrustKeeper

log = structlog.get_logger()
POISONED = "poisoned"
UNTIL_PASSED = "its canaries have passed; the plain lane serves meanwhile"
UNTIL_SERVED = "you change it; there is no other lane to serve instead"


def contexts_of(window: int) -> list[int]:
    """The longest context of each bucket that a window reaches into."""
    lows = (0, *EDGES)
    return [min(high, window) for low, high in zip(lows, (*EDGES, window), strict=True) if low < window]


def distrust(
    keeper: TrustKeeper, mode: DecodeMode, lane: str, capabilities: LaneCapabilities, window: int, plain: bool = False
) -> Sequence[KnownBad]:
    """Opens the breakers of a lane's mode for every context bucket, if a known-bad pair holds; the rows that do.

    plain: it is what others fall back to, or all there is, so it is told of and serves all the same.
    """
    rows = distrusted(capabilities)
    for context in contexts_of(window) if rows and not plain else ():
        keeper.distrust(str(mode), context, f"known-bad:{rows[0].id}"[:64], _accused(rows))
    for row in rows:
        log.warning(
            "lane.known_bad",
            lane=lane,
            pair=row.id,
            consequence=row.consequence,
            source=list(row.source),
            remedy=row.remedy,
            until=UNTIL_SERVED if plain else UNTIL_PASSED,
        )
    return rows


def quarantine(keeper: TrustKeeper, mode: DecodeMode, lane: str, why: str, plain: bool = False) -> None:
    """A poisoned server is wrong at every length, the shortest included."""
    if plain:
        log.error(
            "lane.poisoned", lane=lane, why=why, consequence="it is the plain lane: nothing is left to serve with"
        )
        return
    log.error("lane.poisoned", lane=lane, why=why, consequence="the plain lane serves until its canaries pass")
    keeper.distrust(str(mode), 1, POISONED, "unknown", cool_down=True)


def _accused(rows: Sequence[KnownBad]) -> Axis:
    """What all rows are about, if it is one thing."""
    about = {("kv" if row.kv and not row.speculation else "speculation" if not row.kv else "unknown") for row in rows}
    axis: Axis = "unknown"
    if about == {"kv"}:
        axis = "kv"
    elif about == {"speculation"}:
        axis = "speculation"
    return axis
