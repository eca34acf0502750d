"""Rewinds per session: how many there were within a window of hours, and whether they are spent.

Must not: write to disk, or grow without bound: the sessions used longest ago are forgotten first.
Invariant: a session's spent budget is told once, until it has recovered.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from detectors.finding import Finding, Grade

SESSIONS = 4096
HOUR_S = 3600.0


@dataclass(slots=True)
class _Spending:
    """limit, hours: the most that any of the session's requests goes by; each may have a policy of its own."""

    times: deque[float] = field(default_factory=deque)
    told: bool = False
    limit: int = 0
    hours: float = 0.0


class RewindLedger:
    """Of one server, in memory. clock: seconds from any point on; sessions: most to remember."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, sessions: int = SESSIONS) -> None:
        self._clock, self._sessions = clock, sessions
        self._spending: OrderedDict[str, _Spending] = OrderedDict()

    def __len__(self) -> int:
        return len(self._spending)

    def spend(self, key: str, limit: int) -> None:
        """A rewind has happened. No more are remembered than the largest `limit` of the session can ask for."""
        spending = self._spending.setdefault(key, _Spending())
        self._spending.move_to_end(key)
        spending.times.append(self._clock())
        spending.limit = max(spending.limit, limit)
        while len(spending.times) > spending.limit:
            spending.times.popleft()
        while len(self._spending) > self._sessions:
            self._spending.popitem(last=False)

    def spent(self, key: str, hours: float) -> int:
        """Rewinds within the last hours."""
        spending = self._spending.get(key)
        if spending is None:
            return 0
        now = self._clock()
        spending.hours = max(spending.hours, hours)
        while spending.times and spending.times[0] <= now - spending.hours * HOUR_S:
            spending.times.popleft()
        if not spending.times:
            del self._spending[key]
        return sum(time > now - hours * HOUR_S for time in spending.times)

    def tell(self, key: str) -> bool:
        """Is it the first time that somebody is told of this session? False from then on, until it is `forgiven`."""
        spending = self._spending.get(key)
        if spending is None or spending.told:
            return False
        spending.told = True
        return True

    def forgive(self, key: str) -> None:
        """The session has rewinds left again."""
        if (spending := self._spending.get(key)) is not None:
            spending.told = False


@dataclass(frozen=True, slots=True)
class SessionBudget:
    """One session's share. key: whose session it is and which; limit: 0 = none."""

    ledger: RewindLedger
    key: str
    limit: int
    hours: float

    def spend(self) -> None:
        """A response of the session was rewound."""
        if self.limit:
            self.ledger.spend(self.key, self.limit)

    def exhausted(self) -> Finding | None:
        """That nothing is left of it, if so."""
        spent = self.ledger.spent(self.key, self.hours) if self.limit else 0
        if not self.limit or spent < self.limit:
            self.ledger.forgive(self.key)
            return None
        evidence = {"rewinds": spent, "limit": self.limit, "hours": self.hours}
        return Finding("budget.session", Grade.FALLBACK, "session", 0, 0, "the session's rewinds are spent", evidence)

    def first_telling(self) -> bool:
        return self.ledger.tell(self.key)
