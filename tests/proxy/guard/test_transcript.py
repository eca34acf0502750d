"""The transcript: what stands, what was thrown away, and what it cost."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from policies.modes import PLAIN, DecodeMode
from proxy.backends.base import Audit, CacheFault, CacheHealth, Coding, Delta, RewindReport, StepStats, Token
from proxy.guard.transcript import MOST_UNCOUNTED, RING, Transcript
from tests.proxy.scripted import FAST


def step(audit: Audit | None = None, mode: DecodeMode = FAST) -> StepStats:
    return StepStats(mode, "mtp", 3, 2, 5.0, 40, audit)


def delta(position: int = 0, *tokens: Token, audit: Audit | None = None, mode: DecodeMode = FAST) -> Delta:
    return Delta(position, tokens, step(audit, mode))


def filled(count: int) -> Transcript:
    transcript = Transcript()
    for i in range(count):
        transcript.append(Token(i, str(i)))
    return transcript


def test_tokens_stand_until_they_are_rewound() -> None:
    transcript = filled(5)
    transcript.rewound(RewindReport(2, 3, 2, 7.0, PLAIN))
    assert transcript.ids == (0, 1)
    assert [token.text for token in transcript.tokens] == ["0", "1"]
    assert (len(transcript), transcript.discarded, transcript.totals.decode_ms) == (2, 3, 7.0)


def test_steps_are_counted_whatever_becomes_of_them() -> None:
    transcript = Transcript()
    transcript.count(delta(audit=Audit(4, None)))
    transcript.count(delta(audit=Audit(4, 1)))
    transcript.count(delta())
    totals = transcript.totals
    assert (totals.drafted, totals.accepted, totals.decode_ms) == (9, 6, 15.0)
    assert (totals.audits, totals.mismatches, transcript.context) == (2, 1, 40)
    assert totals.by_position == ((3, 3), (3, 3), (3, 0)), "two of three drafts accepted, thrice"
    assert (totals.by_source, totals.longest_draft) == ({"mtp": (9, 6)}, 3)


def test_drafts_are_told_apart_by_who_made_them_and_how_long_they_are() -> None:
    transcript = Transcript()
    for source, drafted, accepted in (("mtp", 3, 1), ("ngram", 5, 5), ("none", 0, 0), ("mtp", 3, 1), ("mtp", 1, 0)):
        transcript.count(Delta(0, (), StepStats(FAST, source, drafted, accepted, 1.0, 9)))
    totals = transcript.totals
    assert totals.by_source == {"mtp": (7, 2), "ngram": (5, 5)}
    assert totals.by_position == ((4, 3), (3, 1), (3, 1), (1, 1), (1, 1))
    assert (totals.drafted, totals.accepted, totals.longest_draft) == (12, 7, 5)


def test_what_came_from_a_cache_is_told_beside_what_was_read() -> None:
    sought = SimpleNamespace(prompt_tokens=40, cached_tokens=24, prompt_ms=2.0)
    told = filled(3).timings(cast(Any, sought))
    assert (told.cache_n, told.prompt_n, told.predicted_n) == (24, 16, 3)


def test_steps_are_counted_once_however_often_the_totals_are_read() -> None:
    transcript = Transcript()
    for count in range(1, 3 * MOST_UNCOUNTED):
        transcript.count(delta(count))
        if count % 50 == 0:
            assert transcript.totals.drafted == 3 * count
    assert transcript.totals.drafted == transcript.totals.drafted == 3 * count


def test_what_came_and_does_not_stand_yet() -> None:
    transcript = filled(3)
    transcript.count(delta(3, Token(3, ""), Token(4, "d"), Token(5, "")))
    assert (transcript.coming, transcript.reach) == ((3, 4, 5), 6)
    transcript.count(delta(6, Token(6, "f")))
    assert (transcript.coming, transcript.reach, transcript.text) == ((3, 4, 5, 6), 7, "012df")
    for id in (3, 4):
        transcript.append(Token(id, ""))
    assert (transcript.coming, transcript.reach) == ((5, 6), 7)
    transcript.extend((Token(5, ""), Token(6, "f")))
    assert (transcript.coming, transcript.reach) == ((), 7)
    transcript.count(delta(7, Token(7, "g")))
    assert (transcript.coming, transcript.reach) == ((7,), 8)
    transcript.rewound(RewindReport(2, 6, 2, 7.0, PLAIN))
    assert (transcript.coming, transcript.reach) == ((), 2)


def test_no_more_steps_are_held_than_an_incident_needs() -> None:
    def held(kind: type) -> int:
        return sum(type(each) is kind for each in gc.get_objects())

    gc.collect()
    before, transcript = (held(Delta), held(StepStats)), Transcript()
    for at in range(10 * RING):
        token = Token(at, "x", data=bytes([at]))
        transcript.count(delta(at, token))
        transcript.append(token)
    assert held(Delta) - before[0] <= RING + 2
    assert held(StepStats) - before[1] <= RING + MOST_UNCOUNTED + 2


def test_the_last_steps_are_kept_as_numbers() -> None:
    transcript = Transcript()
    for position in range(RING + 4):
        numbers = Token(9, "secret", margin=2.0 - position, entropy=float(position), finite=True)
        transcript.count(delta(position, numbers, Token(8, "", margin=float("nan"), entropy=None)))
    transcript.count(delta(RING + 4, Token(7, "", finite=False), audit=Audit(4, 1)))
    steps = transcript.steps
    assert [step["position"] for step in steps] == list(range(5, RING + 5))
    assert steps[0] == {
        "position": 5, "tokens": 2, "mode": str(FAST), "source": "mtp", "drafted": 3, "accepted": 2,
        "milliseconds": 5.0, "context": 40, "filtered": 0, "audited": False, "mismatch": None,
        "min_margin": -3.0, "mean_entropy": 5.0, "finite": True, "shadow_kl": None,
        "cache_faults": None, "key_cosine": None, "value_cosine": None,
    }  # fmt: skip
    last = steps[-1]
    assert (last["audited"], last["mismatch"], last["finite"], last["min_margin"]) == (True, 1, False, None)
    json.dumps(steps, allow_nan=False)


def test_what_was_seen_in_a_compressed_cache_is_among_the_numbers() -> None:
    transcript = Transcript()
    health = CacheHealth((CacheFault("seal", 0, "keys", 3, 1.0, 0.0),), 8, Coding(4, 8, 0.99, 3.5), None, 0.01)
    transcript.count(replace(delta(0, Token(1, "a")), step=replace(step(), cache=health)))
    (seen,) = transcript.steps
    assert (seen["cache_faults"], seen["key_cosine"], seen["value_cosine"]) == (1, 0.99, None)


def test_stretches_of_modes_follow_rewinds() -> None:
    transcript = filled(6)
    for position, mode in ((0, FAST), (3, FAST), (4, PLAIN)):
        transcript.count(delta(position, mode=mode))
    assert transcript.modes == ((0, FAST), (4, PLAIN))
    transcript.rewound(RewindReport(4, 2, 2, 7.0, PLAIN))
    assert transcript.modes == ((0, FAST),)
    transcript.count(delta(4, mode=PLAIN))
    assert transcript.modes == ((0, FAST), (4, PLAIN))


def test_the_text_has_what_comes_and_nothing_that_was_discarded() -> None:
    transcript = filled(2)
    transcript.count(delta(1, Token(1, "1"), Token(2, "2"), Token(3, "3")))
    assert transcript.text == "0123"
    transcript.rewound(RewindReport(1, 1, 1, 7.0, PLAIN))
    assert transcript.text == "0"
