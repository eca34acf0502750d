"""Nothing that a step reports is lost or mixed up on its way to the guard."""

from __future__ import annotations

from dataclasses import asdict

from engine import reports
from policies.modes import DecodeMode
from proxy.backends.base import Alternative, Drawn
from proxy.backends.deltas import as_delta

MODE = DecodeMode("mtp", "k4v4")
TOKEN = reports.TokenReport(
    7, "a", -0.5, 0.6, 1.5, 0.9, True, ((7, -0.5), (8, -1.5)), reports.DrawnReport(-0.4, 0.8, 0.3)
)
CACHE = reports.CacheReport(
    (reports.CacheFault("seal", 2, "both", 64, 3.0, 0.0),),
    128,
    1,
    1,
    reports.CodingReport(4, 256, 0.991, 3.7),
    reports.CodingReport(8, 512, 0.9999, None),
    0.2,
    0.4,
)
STEP = reports.StepReport(
    position=5,
    tokens=(TOKEN,),
    source="mtp",
    drafted=3,
    accepted=1,
    milliseconds=12.5,
    context=300,
    audit=reports.AuditReport(2, 1, 0.25, "state"),
    end="stop",
    stop_sequence="x",
    tail="rest",
    dead_drafter="mtp",
    filtered=1,
    expected=(0.3, 0.2),
    shadow=reports.ShadowReport(5, False, False, 0.7, 0.4, 9.0),
    cache=CACHE,
)


def test_every_number_of_a_step_arrives() -> None:
    delta = as_delta(STEP, MODE, None)
    assert (delta.position, delta.end, delta.stop_sequence, delta.tail) == (5, "stop", "x", "rest")
    stats = delta.step
    assert stats.mode == MODE
    for name in ("source", "drafted", "accepted", "milliseconds", "context", "dead_drafter", "filtered", "expected"):
        assert getattr(stats, name) == getattr(STEP, name), name
    for ours, theirs in ((stats.audit, STEP.audit), (stats.shadow, STEP.shadow), (stats.cache, STEP.cache)):
        assert ours is not None
        assert theirs is not None
        told, reported = asdict(ours), asdict(theirs)
        assert told == {key: reported[key] for key in told}
    assert set(asdict(CACHE)) - set(asdict(stats.cache)) == {"tiles", "probed", "milliseconds"}  # type: ignore[arg-type]


def test_a_tokens_numbers_arrive_and_its_bytes_where_asked_for() -> None:
    (token,) = as_delta(STEP, MODE, None).tokens
    assert (token.id, token.text, token.data, token.top) == (7, "a", b"", ())
    assert (token.logprob, token.top1_prob, token.margin, token.entropy, token.finite) == (-0.5, 0.6, 1.5, 0.9, True)
    assert token.drawn == Drawn(-0.4, 0.8, 0.3)
    (token,) = as_delta(STEP, MODE, lambda id: bytes([id])).tokens
    assert (token.data, token.drawn) == (b"\7", Drawn(-0.4, 0.8, 0.3))
    assert token.top == (Alternative(7, b"\7", -0.5), Alternative(8, b"\x08", -1.5))


def test_what_was_not_looked_at_is_none() -> None:
    bare = reports.StepReport(0, (), "none", 0, 0, 1.0, 10)
    stats = as_delta(bare, MODE, None).step
    assert (stats.audit, stats.shadow, stats.cache) == (None, None, None)
