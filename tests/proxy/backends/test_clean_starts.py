"""Salts of what begins on the plain lane: new where somebody else's prefix could be met, one's own after that."""

from __future__ import annotations

from proxy.backends.clean_starts import MOST, CleanStarts, salt_of


def test_a_session_meets_nobodys_prefix_but_its_own() -> None:
    starts = CleanStarts()
    first, fresh = starts.take("", "a")
    assert fresh and first
    assert starts.take("", "a") == (first, False), "an agent's next turn reads on behind its last one"
    others = [starts.take("", "b"), starts.take("key", "a")]
    assert all(fresh for _, fresh in others) and len({first, *(salt for salt, _ in others)}) == 3


def test_another_outage_is_begun_with_another_salt() -> None:
    starts = CleanStarts()
    first, _ = starts.take("", "a")
    kept, _ = starts.take("", "b")
    starts.served("", "a")
    again, fresh = starts.take("", "a")
    assert fresh and again != first
    assert starts.take("", "b") == (kept, False)


def test_after_a_trip_nothing_is_kept_of_the_session() -> None:
    starts = CleanStarts()
    mine, theirs, other = starts.take("x", "a"), starts.take("y", "a"), starts.take("x", "b")
    starts.tripped("a")
    assert starts.take("x", "a")[0] != mine[0] and starts.take("y", "a")[0] != theirs[0]
    assert starts.take("x", "b") == (other[0], False)


def test_without_a_session_nothing_is_kept_and_what_is_kept_is_bounded() -> None:
    starts = CleanStarts()
    assert starts.take("", "")[0] != starts.take("", "")[0] and len(starts) == 0
    for number in range(MOST + 3):
        starts.take("", f"s{number}")
    assert len(starts) == MOST
    assert starts.take("", "s0")[1] and not starts.take("", f"s{MOST + 2}")[1]


def test_a_configured_salt_is_hashed_with_the_clients_key() -> None:
    assert salt_of("shared", "") == "shared" and salt_of("", "key") == ""
    assert salt_of("shared", "one") != salt_of("shared", "two")
