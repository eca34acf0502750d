"""Rewinds per session in a window of hours, on a clock that is turned by hand."""

from __future__ import annotations

from proxy.guard.session_budget import HOUR_S, RewindLedger, SessionBudget


class Day:
    def __init__(self, sessions: int = 4096) -> None:
        self.now = 0.0
        self.ledger = RewindLedger(lambda: self.now, sessions)

    def budget(self, key: str = "owner/session", limit: int = 2, hours: float = 6.0) -> SessionBudget:
        return SessionBudget(self.ledger, key, limit, hours)


def test_a_budget_is_spent_by_rewinds_and_comes_back_with_time() -> None:
    day = Day()
    budget = day.budget()
    assert budget.exhausted() is None
    budget.spend()
    day.now += HOUR_S
    budget.spend()
    found = budget.exhausted()
    assert found is not None
    assert (found.detector, found.grade.name, found.channel) == ("budget.session", "FALLBACK", "session")
    assert found.evidence == {"rewinds": 2, "limit": 2, "hours": 6.0}
    day.now = 6 * HOUR_S - 1
    assert budget.exhausted() is not None
    day.now = 6 * HOUR_S
    assert budget.exhausted() is None


def test_it_is_told_once_until_it_has_recovered() -> None:
    day = Day()
    budget = day.budget(limit=1)
    budget.spend()
    assert budget.exhausted() is not None
    assert [budget.first_telling() for _ in range(3)] == [True, False, False]
    day.now = 7 * HOUR_S
    assert budget.exhausted() is None
    budget.spend()
    assert budget.exhausted() is not None
    assert budget.first_telling()


def test_a_session_that_recovers_in_part_is_told_again() -> None:
    day = Day()
    budget = day.budget(limit=2)
    budget.spend()
    day.now = HOUR_S
    budget.spend()
    assert budget.exhausted() is not None
    assert budget.first_telling()
    day.now = 6 * HOUR_S
    assert budget.exhausted() is None
    budget.spend()
    assert budget.exhausted() is not None
    assert budget.first_telling()


def test_sessions_and_owners_do_not_share() -> None:
    day = Day()
    day.budget("a/s", 1).spend()
    assert day.budget("a/s", 1).exhausted() is not None
    assert day.budget("b/s", 1).exhausted() is None
    assert day.budget("a/t", 1).exhausted() is None


def test_without_a_limit_nothing_is_kept() -> None:
    day = Day()
    budget = day.budget(limit=0)
    budget.spend()
    assert budget.exhausted() is None
    assert len(day.ledger) == 0


def test_the_ledger_is_bounded() -> None:
    day = Day(sessions=3)
    for name in "abcd":
        for _ in range(50):
            day.budget(name, limit=4).spend()
    assert len(day.ledger) == 3
    assert day.budget("a").exhausted() is None
    assert day.ledger.spent("d", 6.0) == 4


def test_what_is_over_is_forgotten() -> None:
    day = Day()
    day.budget().spend()
    day.now = 7 * HOUR_S
    assert day.ledger.spent("owner/session", 6.0) == 0
    assert len(day.ledger) == 0


def test_a_policy_of_one_request_forgets_nothing_that_another_counts() -> None:
    """Overrides hold for single requests of a session: neither a small limit nor a short window forgives the rest."""
    day = Day()
    usual, brief = day.budget(limit=3), day.budget(limit=1, hours=0.5)
    for _ in range(3):
        usual.spend()
    assert usual.exhausted() is not None
    brief.spend()
    assert usual.exhausted() is not None
    day.now = HOUR_S
    assert brief.exhausted() is None
    assert usual.exhausted() is not None
