"""The latest conversations are kept, the least recently used go first, and nothing grows without bound."""

from __future__ import annotations

from proxy.conversation import Message, PastCall
from proxy.server.kept_responses import KeptResponses

HI = (Message("user", "hi"),)


def test_get_what_was_kept() -> None:
    kept = KeptResponses()
    kept.keep("a", HI)
    assert kept.get("a") == HI
    assert kept.get("b") is None


def test_the_least_recently_used_goes_first() -> None:
    kept = KeptResponses(responses=2)
    kept.keep("a", HI)
    kept.keep("b", HI)
    kept.get("a")
    kept.keep("c", HI)
    assert [name for name in "abc" if kept.get(name)] == ["a", "c"]


def test_the_size_is_bounded() -> None:
    kept = KeptResponses(chars=500)
    for name in "abc":
        kept.keep(name, (Message("user", "x" * 40),))
    assert [name for name in "abc" if kept.get(name)] == ["b", "c"]
    kept.keep("d", (Message("assistant", "", "y" * 50, (PastCall("1" * 50, "f", {"k": "z" * 50}),)),))
    assert kept.get("d") is None
    assert kept.get("c") is None
    kept.keep("e", (Message("user", "x" * 290),))
    assert kept.get("e") is not None


def test_whatever_a_client_can_make_long_counts() -> None:
    kept = KeptResponses(chars=10_000)
    for name, message in {
        "call id": Message("tool", "", call_id="x" * 10_000),
        "id": Message("assistant", "", calls=(PastCall("x" * 10_000, "f", {}),)),
    }.items():
        kept.keep(name, (message,))
        assert kept.get(name) is None
    kept.keep("many", (Message("user", ""),) * 60)
    assert kept.get("many") is None
