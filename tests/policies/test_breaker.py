"""The breaker as a transcript: what trips, what opens, what heals; and what must hold whatever happens."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.accusation import CERTAIN, LIKELY, UNPROVEN, Accusation, Axis
from policies.breaker import (
    BUCKETS,
    EDGES,
    MAX_RECORDS,
    Breaker,
    BreakerSettings,
    Key,
    Record,
    Trip,
    bucket_of,
)

FAST, FORMAT, PRINT = "mtp+ngram/full", "qwen_xml", "f00d"
SETTINGS = BreakerSettings(trips=3, window_s=600, cool_down_s=60, most_cool_down_s=300)


def key(context: int = 500, mode: str = FAST, fingerprint: str = PRINT) -> Key:
    return Key(fingerprint, mode, bucket_of(context), FORMAT)


@dataclass
class Bench:
    """A breaker whose clock is turned by hand, and a transcript of the shortest context's states."""

    breaker: Breaker
    now: float = 1000.0
    made: int = 0

    def trip(self, context: int = 500, weight: float = LIKELY, axis: Axis = "speculation", mode: str = FAST) -> str:
        self.made += 1
        name = f"inc_{self.made}"
        self.breaker.trip(key(context, mode), Trip(name, self.now, context, Accusation(axis, weight)), self.now)
        return name

    def serves(self, context: int, mode: str = FAST) -> bool:
        return self.breaker.blocking(PRINT, mode, context, FORMAT) is None

    def due(self) -> Key | None:
        return self.breaker.due(PRINT, FORMAT, self.now)

    def canary(self, passes: bool) -> None:
        due = self.due()
        assert due is not None
        self.breaker.begin(due, self.now)
        (self.breaker.passed if passes else self.breaker.failed)(due, self.now)


@pytest.fixture
def bench() -> Bench:
    return Bench(Breaker(SETTINGS))


def test_buckets_have_names_and_edges_belong_to_the_shorter_one() -> None:
    assert BUCKETS == ("0-1k", "1-4k", "4-16k", "16-32k", "32-64k", "64-128k", "128-256k", "256k+")
    assert [bucket_of(n) for n in (0, 1024, 1025, 4096, 4097, 262144, 262145)] == [0, 0, 1, 1, 2, 6, 7]
    assert str(key(20_000)) == "mtp+ngram/full@16-32k:qwen_xml#f00d"


def test_one_certain_trip_opens_at_once(bench: Bench) -> None:
    assert bench.serves(500)
    bench.trip(weight=CERTAIN)
    assert not bench.serves(500)


def test_likely_trips_open_only_together_and_only_within_the_window(bench: Bench) -> None:
    for _ in range(4):  # never three within 600 s
        bench.trip()
        bench.now += 301
    assert bench.serves(500)
    bench.trip()
    assert bench.serves(500)
    bench.trip()
    assert not bench.serves(500)


def test_unproven_trips_weigh_half(bench: Bench) -> None:
    for _ in range(5):
        bench.trip(weight=UNPROVEN)
    assert bench.serves(500)
    bench.trip(weight=UNPROVEN)
    assert not bench.serves(500)


def test_an_open_bucket_covers_longer_contexts_and_no_shorter_one(bench: Bench) -> None:
    bench.trip(context=3000, weight=CERTAIN)
    assert [bench.serves(n) for n in (1000, 1024, 1025, 4096, 5000, 200_000)] == [True, True] + [False] * 4


def test_trips_in_shorter_contexts_are_evidence_in_longer_ones_but_not_the_reverse(bench: Bench) -> None:
    for context in (500, 3000, 9000):
        bench.trip(context)
    assert [bench.serves(n) for n in (500, 3000, 9000)] == [True, True, False]
    other = Bench(Breaker(SETTINGS))
    for context in (9000, 3000, 500):
        other.trip(context)
    assert [other.serves(n) for n in (500, 3000, 9000)] == [True, True, False]


def test_other_modes_models_and_formats_are_not_touched(bench: Bench) -> None:
    bench.trip(weight=CERTAIN)
    assert bench.serves(500, "ngram/full")
    assert bench.breaker.blocking("other", FAST, 500, FORMAT) is None
    assert bench.breaker.blocking(PRINT, FAST, 500, "json") is None


def test_only_a_canary_brings_a_mode_back(bench: Bench) -> None:
    bench.trip(weight=CERTAIN)
    assert bench.due() is None
    bench.now += 59.9
    assert bench.due() is None
    bench.now += 0.1
    assert bench.due() == key()
    bench.now += 10_000
    assert not bench.serves(500), "time alone heals nothing"
    bench.breaker.begin(key(), bench.now)
    assert not bench.serves(500), "a canary is no client"
    bench.breaker.passed(key(), bench.now)
    assert bench.serves(500)
    assert bench.breaker.records[key()].trips == ()


def test_the_cool_down_doubles_up_to_its_cap(bench: Bench) -> None:
    bench.trip(weight=CERTAIN)
    pauses = []
    for _ in range(5):
        pauses.append(bench.breaker.remaining(bench.breaker.records[key()], bench.now))
        bench.now += pauses[-1]
        bench.canary(passes=False)
    assert pauses == [60, 120, 240, 300, 300]


def test_a_mode_that_trips_again_soon_after_it_was_healed_waits_longer(bench: Bench) -> None:
    bench.trip(weight=CERTAIN)
    bench.now += 60
    bench.canary(passes=True)
    bench.now += 10
    bench.trip(weight=CERTAIN)
    assert bench.breaker.remaining(bench.breaker.records[key()], bench.now) == 120
    bench.now += 120
    bench.canary(passes=True)
    bench.now += 601
    bench.trip(weight=CERTAIN)
    assert bench.breaker.remaining(bench.breaker.records[key()], bench.now) == 60


def test_a_canary_that_comes_to_no_end_changes_nothing(bench: Bench) -> None:
    bench.trip(weight=CERTAIN)
    bench.now += 60
    bench.breaker.begin(key(), bench.now)
    bench.breaker.gave_up(key(), bench.now, 5)
    assert not bench.serves(500) and bench.due() is None
    bench.now += 5
    assert bench.due() == key()
    assert bench.breaker.records[key()].openings == 1


def test_one_canary_at_a_time_shortest_context_first(bench: Bench) -> None:
    bench.trip(context=9000, weight=CERTAIN)
    bench.trip(context=500, weight=CERTAIN)
    bench.now += 60
    assert bench.due() == key(500)
    bench.breaker.begin(key(500), bench.now)
    assert bench.due() is None
    with pytest.raises(ValueError, match="no canary may begin"):
        bench.breaker.begin(key(9000), bench.now)
    bench.breaker.passed(key(500), bench.now)
    assert bench.due() == key(9000)
    with pytest.raises(ValueError, match="no canary was begun"):
        bench.breaker.passed(key(500), bench.now)


def test_begin_wants_its_own_cool_down_to_be_over(bench: Bench) -> None:
    bench.trip(context=500, weight=CERTAIN)
    bench.now += 59
    bench.trip(context=9000, weight=CERTAIN)
    bench.now += 1
    with pytest.raises(ValueError, match="cool-down"):
        bench.breaker.begin(key(9000), bench.now)


def test_openings_that_were_written_by_hand_do_not_fall_below_none() -> None:
    record = Record("open", (Trip("inc_1", 1.0, 500, Accusation("kv", CERTAIN)),), openings=0)
    breaker = Breaker(SETTINGS, {key(): record})
    assert breaker.revise("inc_1", None, 2.0)
    assert breaker.records[key()].openings == 0, "less could not be kept"


def test_no_canary_begins_for_what_was_reset_while_another_one_is_due(bench: Bench) -> None:
    bench.trip(500, CERTAIN)
    bench.trip(9000, CERTAIN, mode="mtp/full")
    bench.now += 60
    bench.breaker.reset(str(key()))
    with pytest.raises(ValueError, match="no canary may begin"):
        bench.breaker.begin(key(), bench.now)


def test_a_judgement_that_clears_the_mode_closes_what_it_had_opened(bench: Bench) -> None:
    bench.trip(), bench.trip()
    third = bench.trip()
    assert not bench.serves(500)
    assert bench.breaker.revise(third, None, bench.now)
    assert bench.serves(500)
    assert bench.breaker.revise("inc_1", Accusation("kv", CERTAIN), bench.now)
    assert not bench.serves(500)
    assert not bench.breaker.revise("inc_unknown", None, bench.now)


def test_a_judgement_does_not_overrule_a_canary_that_failed(bench: Bench) -> None:
    only = bench.trip(weight=CERTAIN)
    bench.now += 60
    bench.canary(passes=False)
    assert not bench.breaker.revise(only, None, bench.now)
    assert not bench.serves(500)


def test_a_judgement_about_a_shorter_context_reaches_the_breaker_that_it_helped_to_open(bench: Bench) -> None:
    first = bench.trip(500)
    bench.trip(3000), bench.trip(9000)
    assert not bench.serves(9000)
    assert bench.breaker.revise(first, None, bench.now)
    assert bench.serves(9000)


def test_what_a_canary_has_answered_is_no_evidence_any_more(bench: Bench) -> None:
    for context in (500, 3000, 9000):
        bench.trip(context)
    bench.now += 60
    bench.canary(passes=True)
    bench.trip(9000)
    assert bench.serves(9000)


def test_the_accused_half_is_named_while_the_trips_agree(bench: Bench) -> None:
    bench.trip(axis="kv"), bench.trip(axis="kv")
    assert bench.breaker.records[key()].axis == "kv"
    bench.trip(axis="speculation")
    assert bench.breaker.records[key()].axis == "unknown"
    assert Record().axis == "unknown"


def test_a_canary_that_ran_when_the_server_died_is_run_again(bench: Bench) -> None:
    bench.trip(weight=CERTAIN)
    bench.now += 60
    bench.breaker.begin(key(), bench.now)
    again = Bench(Breaker(SETTINGS, bench.breaker.records), now=bench.now)
    assert not again.serves(500)
    assert again.due() == key()


def test_a_clock_that_was_set_back_keeps_nothing_open_for_longer_than_its_cool_down(bench: Bench) -> None:
    bench.trip(weight=CERTAIN)
    bench.now -= 1e6
    assert bench.breaker.remaining(bench.breaker.records[key()], bench.now) == 60
    assert bench.due() is None
    bench.now += 60
    assert bench.due() == key()


def test_reset_forgets_by_the_beginning_of_the_key(bench: Bench) -> None:
    bench.trip(500, CERTAIN), bench.trip(9000, CERTAIN)
    assert bench.breaker.reset("mtp+ngram/full@4") == [key(9000)]
    assert [bench.serves(n) for n in (500, 9000)] == [False, False]
    assert bench.breaker.reset() == [key(500)]
    assert bench.serves(9000)


def test_records_are_bounded_and_open_ones_stay(bench: Bench) -> None:
    bench.trip(weight=CERTAIN)
    for number in count():
        if number == MAX_RECORDS + 50:
            break
        trip = Trip(f"x{number}", bench.now + number, 500, Accusation("kv", LIKELY))
        bench.breaker.trip(key(fingerprint=f"old{number}"), trip, bench.now + number)
    assert len(bench.breaker.records) == MAX_RECORDS
    assert not bench.serves(500)
    for _ in range(200):
        bench.trip()
    assert len(bench.breaker.records[key()].trips) == 32


CONTEXTS = st.sampled_from([1, 900, 1024, 1025, 5000, 20_000, 300_000])
MODES = st.sampled_from([FAST, "mtp/k4v4", "none/k4v4"])


class AnyOrder(RuleBasedStateMachine):
    """Trips, judgements, canaries and time in any order, against the two promises and a model of what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(Breaker(SETTINGS))
        self.running: Key | None = None
        self.opened_at: dict[Key, float] = {}

    @rule(context=CONTEXTS, mode=MODES, weight=st.sampled_from([UNPROVEN, LIKELY, CERTAIN]))
    def trips(self, context: int, mode: str, weight: float) -> None:
        self.bench.trip(context, weight, mode=mode)
        if weight == CERTAIN:
            assert not self.bench.serves(context, mode), "a proof opens"

    @rule(number=st.integers(1, 40), clears=st.booleans())
    def judged(self, number: int, clears: bool) -> None:
        accusation = None if clears else Accusation("kv", CERTAIN)
        self.bench.breaker.revise(f"inc_{number}", accusation, self.bench.now)

    @rule(seconds=st.sampled_from([1.0, 59.0, 61.0, 700.0, -100.0]))
    def waits(self, seconds: float) -> None:
        before = {k for k, r in self.bench.breaker.records.items() if r.state != "closed"}
        self.bench.now += seconds
        after = {k for k, r in self.bench.breaker.records.items() if r.state != "closed"}
        assert before == after, "time alone changes no state"

    @rule()
    def begins(self) -> None:
        due = self.bench.due()
        if self.running is not None:
            assert due is None
        elif due is not None:
            self.bench.breaker.begin(due, self.bench.now)
            self.running = due

    @precondition(lambda self: self.running is not None)
    @rule(verdict=st.sampled_from(["passed", "failed", "gave_up"]))
    def ends(self, verdict: str) -> None:
        assert self.running is not None
        extra = (5.0,) if verdict == "gave_up" else ()
        getattr(self.bench.breaker, verdict)(self.running, self.bench.now, *extra)
        assert (self.bench.breaker.records[self.running].state == "closed") == (verdict == "passed")
        self.running = None

    @rule()
    def restarts(self) -> None:
        self.bench.breaker = Breaker(SETTINGS, self.bench.breaker.records)
        self.running = None

    @invariant()
    def never_serves_what_is_not_closed(self) -> None:
        for found, record in self.bench.breaker.records.items():
            if record.state != "closed":
                for bucket in range(found.bucket, len(EDGES) + 1):
                    context = EDGES[bucket] if bucket < len(EDGES) else EDGES[-1] + 1
                    assert not self.bench.serves(context, found.mode)

    @invariant()
    def at_most_one_is_half_open(self) -> None:
        half_open = [k for k, r in self.bench.breaker.records.items() if r.state == "half_open"]
        assert half_open == ([] if self.running is None else [self.running])


TestAnyOrder = AnyOrder.TestCase


def test_distrust_opens_without_a_trip_and_only_once() -> None:
    breaker = Breaker(BreakerSettings(cool_down_s=60))
    key = Key("f", "mtp/full", 1, "qwen_xml")
    cause = Trip("known-bad:x", 5.0, 4000, Accusation("speculation", CERTAIN))
    assert breaker.distrust(key, cause, 5.0)
    assert breaker.due("f", "qwen_xml", 5.0) == key  # a canary may look at once
    assert not breaker.distrust(key, cause, 6.0) and breaker.records[key].openings == 1
    assert breaker.blocking("f", "mtp/full", 9000, "qwen_xml") and not breaker.blocking("f", "mtp/full", 9, "qwen_xml")
    other = Key("f", "ngram/full", 0, "qwen_xml")
    assert breaker.distrust(other, cause, 5.0, cool_down=True)
    breaker.begin(key, 5.0)
    breaker.passed(key, 5.0)
    assert breaker.due("f", "qwen_xml", 64.0) is None and breaker.due("f", "qwen_xml", 65.0) == other
