"""Where a response starts: the wanted mode, a safer one, and how long that answer holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.accusation import CERTAIN, LIKELY, Accusation, Axis
from policies.breaker import EDGES, Breaker, Key, Trip, bucket_of
from policies.modes import CODECS, DRAFTERS, PLAIN, DecodeMode
from policies.qualification import Qualification, parse
from policies.trust import Limit, Served, Start, Trust, start_mode

BOTH, DRAFTS, CODES = DecodeMode("mtp+ngram", "k4v4"), DecodeMode("mtp+ngram"), DecodeMode("none", "k4v4")
SERVED = Served("f00d", "qwen_xml", 40_000)


def opened(mode: DecodeMode, context: int, axis: Axis, breaker: Breaker | None = None) -> Breaker:
    breaker = breaker or Breaker()
    key = Key("f00d", str(mode), bucket_of(context), "qwen_xml")
    breaker.trip(key, Trip(f"inc {mode} {context}", 0.0, context, Accusation(axis, CERTAIN)), 0.0)
    return breaker


def qualified(*rows: tuple[DecodeMode, int]) -> Qualification:
    head = {"format": "specguard.qualification", "version": 1, "created": "now", "model": "m", "fingerprint": "f00d"}
    modes: list[Any] = [
        {"drafter": mode.drafter, "codec": mode.codec, "buckets": [{"up_to_tokens": tokens, "trusted": True}]}
        for mode, tokens in rows
    ]
    return parse(json.dumps(head | {"tool_format": "qwen_xml", "modes": modes}))


def test_a_trusted_mode_is_used_to_the_end_of_the_window() -> None:
    assert start_mode(BOTH, 39_000, Trust(SERVED), Breaker()) == Start(BOTH)
    assert start_mode(BOTH, 0, Trust(SERVED), Breaker()).limit is None, "nobody has to count tokens"


@pytest.mark.parametrize(
    ("wanted", "axis", "instead"),
    [
        (BOTH, "speculation", CODES),
        (BOTH, "kv", DRAFTS),
        (BOTH, "unknown", PLAIN),
        (DRAFTS, "speculation", PLAIN),
        (DRAFTS, "unknown", PLAIN),
        (CODES, "kv", PLAIN),
    ],
)
def test_an_open_breaker_leads_to_what_was_not_accused(wanted: DecodeMode, axis: Axis, instead: DecodeMode) -> None:
    start = start_mode(wanted, 5000, Trust(SERVED), opened(wanted, 5000, axis))
    assert start == Start(instead, f"the breaker {wanted}@4-16k is open")


def test_the_safer_mode_must_be_sound_itself_and_possible() -> None:
    breaker = opened(CODES, 300, "kv", opened(BOTH, 5000, "speculation"))
    assert start_mode(BOTH, 5000, Trust(SERVED), breaker).mode == PLAIN
    breaker = opened(BOTH, 5000, "speculation")
    assert start_mode(BOTH, 5000, Trust(SERVED), breaker, (str(BOTH), "plain")).mode == PLAIN


def test_a_half_open_breaker_serves_nobody() -> None:
    breaker = opened(DRAFTS, 500, "speculation")
    breaker.begin(Key("f00d", str(DRAFTS), 0, "qwen_xml"), 1e6)
    assert start_mode(DRAFTS, 500, Trust(SERVED), breaker) == Start(
        PLAIN, "the breaker mtp+ngram/full@0-1k is half open"
    )


def test_a_shorter_prompt_starts_in_the_wanted_mode_and_knows_how_far() -> None:
    breaker = opened(DRAFTS, 5000, "speculation")
    assert start_mode(DRAFTS, 4096, Trust(SERVED), breaker) == Start(DRAFTS, "", Limit(4096, PLAIN))
    assert start_mode(DRAFTS, 4097, Trust(SERVED), breaker).mode == PLAIN
    assert start_mode(DRAFTS, 0, Trust(SERVED), breaker).limit is not None
    short = opened(DRAFTS, 5, "speculation")
    assert start_mode(DRAFTS, 0, Trust(SERVED), short).limit is None, "plain at any length"


def test_without_a_qualification_the_configured_ceiling_holds() -> None:
    trust = Trust(SERVED, ceiling_tokens=3000)
    assert start_mode(BOTH, 3000, trust, Breaker()) == Start(BOTH, "", Limit(3000, PLAIN))
    start = start_mode(BOTH, 3001, trust, Breaker())
    assert start == Start(PLAIN, "mtp+ngram/k4v4 is trusted up to 3000 tokens (trust.ceiling_tokens is 3000)")
    assert start_mode(PLAIN, 39_000, trust, Breaker()) == Start(PLAIN)


def test_beyond_its_qualification_a_mode_gives_way_to_the_half_that_is_qualified() -> None:
    trust = Trust(SERVED, qualified((BOTH, 4096), (DRAFTS, 16_384), (CODES, 20_000)), ceiling_tokens=1)
    assert start_mode(BOTH, 9, trust, Breaker()).limit == Limit(4096, PLAIN), "three other modes follow it"
    assert start_mode(BOTH, 16_385, trust, Breaker()).limit == Limit(20_000, PLAIN)
    modes = [start_mode(BOTH, n, trust, Breaker()).mode for n in (4096, 4097, 16_384, 16_385, 20_000, 20_001)]
    assert modes == [BOTH, DRAFTS, DRAFTS, CODES, CODES, PLAIN]
    assert start_mode(DecodeMode("ngram"), 10, trust, Breaker()).why == (
        "ngram/full is trusted up to 0 tokens (ngram/full was not qualified)"
    )


def test_an_open_breaker_is_named_before_a_ceiling_and_decides_the_way() -> None:
    trust = Trust(SERVED, ceiling_tokens=3000)
    assert start_mode(BOTH, 3500, trust, opened(BOTH, 2000, "kv")).why == "the breaker mtp+ngram/k4v4@1-4k is open"
    assert start_mode(BOTH, 2500, trust, opened(BOTH, 2000, "kv")) == Start(
        DRAFTS, "the breaker mtp+ngram/k4v4@1-4k is open", Limit(3000, PLAIN)
    )


def test_where_a_full_cache_has_no_room_the_codec_stays_without_drafts() -> None:
    start = start_mode(BOTH, 5000, Trust(SERVED), opened(BOTH, 5000, "unknown"), fits=lambda m: m.codec != "full")
    assert start.mode == CODES
    assert "a full cache has no room for 5000 tokens" in start.why


MODES = st.builds(DecodeMode, st.sampled_from(DRAFTERS), st.sampled_from(CODECS))
AXES: st.SearchStrategy[Axis] = st.sampled_from(["speculation", "kv", "unknown"])
CONTEXTS = st.sampled_from([0, 1, *EDGES[:4], *(edge + 1 for edge in EDGES[:3]), 2999, 3000, 3001])


@given(MODES, CONTEXTS, st.lists(st.tuples(MODES, CONTEXTS, AXES), max_size=6), st.sampled_from([0, 3000]))
def test_an_open_or_untrusted_mode_never_starts(
    wanted: DecodeMode, context: int, trips: list[tuple[DecodeMode, int, Axis]], ceiling: int
) -> None:
    breaker, trust = Breaker(), Trust(SERVED, ceiling_tokens=ceiling)
    for mode, at, axis in trips:
        opened(mode, at, axis, breaker)
    start = start_mode(wanted, context, trust, breaker)
    assert start.mode == PLAIN or trust.distrust(start.mode, context, breaker) is None
    assert bool(start.why) == (start.mode != wanted) or wanted == PLAIN
    if start.limit is not None:  # the answer holds up to there, and is another one beyond, which then stays
        assert context <= start.limit.tokens
        assert start_mode(wanted, start.limit.tokens, trust, breaker).mode == start.mode
        assert start_mode(wanted, start.limit.tokens + 1, trust, breaker).mode != start.mode
        for edge in (start.limit.tokens + 1, *(edge + 1 for edge in EDGES if edge > start.limit.tokens), 3001):
            if start.limit.tokens < edge < SERVED.window and start.limit.mode != PLAIN:
                assert trust.distrust(start.limit.mode, edge, breaker) is None
    elif context < SERVED.window:
        assert start_mode(wanted, SERVED.window, trust, breaker).mode == start.mode


def test_likely_trips_distrust_nothing_yet() -> None:
    breaker = Breaker()
    breaker.trip(Key("f00d", str(DRAFTS), 0, "qwen_xml"), Trip("i", 0.0, 9, Accusation("kv", LIKELY)), 0.0)
    assert start_mode(DRAFTS, 500, Trust(SERVED), breaker) == Start(DRAFTS)
