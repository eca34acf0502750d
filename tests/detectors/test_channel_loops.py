"""The loop detectors of a channel together: other numbers for other kinds of text, one finding per grade."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.channel_loops import ChannelLoops
from detectors.finding import Finding, Grade
from detectors.loop_settings import LoopSettings
from detectors.period import Threshold, Thresholds
from tests.proxy.scripted import cut, token_id

FALLBACK, SUSPECT, ABORT = Grade.FALLBACK, Grade.SUSPECT, Grade.ABORT
WORDS = "river boat stone house light garden winter letter number window table paper answer question way word".split()


def feed(text: str | list[str], channel: str = "text", given: LoopSettings | None = None) -> list[Finding]:
    loops = ChannelLoops(given, channel)
    pieces = cut(text) if isinstance(text, str) else text
    return [f for i, piece in enumerate(pieces) if (f := loops.feed(i, token_id(piece), piece)) is not None]


def said(findings: list[Finding]) -> list[tuple[str, Grade, int]]:
    return [(f.detector.removeprefix("loop."), f.grade, f.position) for f in findings]


def prose(count: int, seed: int = 1) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + draw.choice(("", "", "s", "ed", "er")) for _ in range(count)) + ". "


UNIT = " so we go on"  # four tokens


def test_text_arguments_and_fenced_code_have_their_own_numbers() -> None:
    assert said(feed(UNIT * 300)) == [("period", SUSPECT, 95), ("period", FALLBACK, 255), ("period", ABORT, 1023)]
    assert said(feed(UNIT * 600, "thinking"))[1] == ("period", FALLBACK, 255)
    assert said(feed(UNIT * 600, "tool:0")) == [
        ("period", SUSPECT, 255),
        ("period", FALLBACK, 511),
        ("period", ABORT, 2047),
    ]
    fenced = feed("```\n" + UNIT * 600)
    lead = len(cut("```\n"))
    assert said(fenced) == [
        ("period", SUSPECT, lead + 255),
        ("period", FALLBACK, lead + 511),
        ("period", ABORT, lead + 2047),
    ]


def test_base64_is_only_ever_ended() -> None:
    assert said(feed(["data:", *["AAAA"] * 3000])) == [("period", ABORT, 2048)]
    assert said(feed(["data:", *["AAAA"] * 3000], "tool:1")) == [("period", ABORT, 2048)]
    noise = random.Random(1)
    run = ["".join(noise.choices("ABCDefgh0123+/", k=4)) for _ in range(100)]
    assert feed([*run, *["AAAA"] * 1500]) == []
    assert said(feed(["tur", *["qur"] * 300]))[-1] == ("period", FALLBACK, 256)  # no capital: a stuck word


def test_the_first_copy_may_stay() -> None:
    found = feed(prose(60).rstrip() + UNIT * 100)
    lead = len(cut(prose(60).rstrip()))
    assert [f.began for f in found] == [lead + 4] * len(found)


def test_counters_are_found_in_text_alone() -> None:
    text = "".join(f"\nStep {i}: look at the next file again" for i in range(200))
    assert ("counter", FALLBACK) in [(name, grade) for name, grade, _ in said(feed(text))]
    assert feed(text, "tool:0") == []
    assert feed("```\n" + text) == []


def test_near_repeats_are_found_in_text_alone() -> None:
    draw = random.Random(4)
    unit = cut(prose(40, 2))
    pieces = [draw.choice(WORDS) if draw.random() < 0.04 else piece for _ in range(40) for piece in unit]
    found = said(feed(pieces))
    assert ("near", FALLBACK) in [(name, grade) for name, grade, _ in found]
    assert FALLBACK not in [grade for _, grade, _ in said(feed(pieces, "tool:0"))]
    assert FALLBACK not in [grade for _, grade, _ in said(feed(["```\n", *pieces]))]


def test_after_code_without_a_fence_code_numbers_hold() -> None:
    draw = random.Random(3)
    code = "".join(f"    {draw.choice(WORDS)}_{draw.randrange(99)}({draw.choice(WORDS)}=[{i}])\n" for i in range(60))
    rows = "    (0, 1, 0),\n" * 45
    lead = len(cut(code))
    fallback = [position for _, grade, position in said(feed(code + rows * 2)) if grade is FALLBACK]
    assert fallback[0] - lead > 480
    assert [p for _, grade, p in said(feed(prose(200) + rows)) if grade is FALLBACK]


def test_code_that_counts_is_no_loop_however_long() -> None:
    """What came before is asked when it begins: a hundred lines later it is forgotten."""
    code = "".join(f"    {word}_{i} = [{i}, {i * i}]\n" for i, word in enumerate(WORDS[:12]))
    lines = "".join(f"            step_{i} = look_at(step_{i + 1}, {i})\n" for i in range(400))
    assert len(cut(code)) < 256 < 2048 < len(cut(lines))
    assert [name for name, grade, _ in said(feed(code + lines)) if grade is not SUSPECT] == []
    assert ("counter", FALLBACK) in [(name, grade) for name, grade, _ in said(feed(prose(60) + lines))]


def test_what_counts_from_the_start_may_count_longer() -> None:
    """Nothing came before that could be known as code; constants begin so."""
    lines = "".join(f"\nStep {i}: look at the next file again" for i in range(300))
    found = {
        lead: next(f for f in feed(lead + lines) if f.detector == "loop.counter" and f.grade is FALLBACK)
        for lead in ("", prose(60))
    }
    assert found[""].evidence["covered"] == LoopSettings().counter_from_start
    assert found[prose(60)].evidence["covered"] == 512
    assert SUSPECT in [f.grade for f in feed(lines) if f.position < found[""].position]


def test_one_character_is_counted_where_tokens_fold_it() -> None:
    folded = ["\n" * 60] * 6
    assert said(feed([*cut(prose(30)), *folded]))[-1][:2] == ("single", FALLBACK)
    assert feed([*cut(prose(30)), "=" * 80, "\n", "=" * 80, "\n", "=" * 80]) == []
    assert feed(["\n" * 60] * 3) == []
    assert said(feed(["\n" * 60] * 6, "tool:0")) == [("single", SUSPECT, 3)]


def test_suspicion_passes() -> None:
    loops = ChannelLoops()
    for i, piece in enumerate(cut(UNIT * 30)):
        loops.feed(i, token_id(piece), piece)
    assert loops.grade is SUSPECT
    assert loops.feed(120, token_id("then"), "then") is None
    assert loops.grade is None
    found = [loops.feed(121 + i, token_id(piece), piece) for i, piece in enumerate(cut(UNIT * 30))]
    assert [f.grade for f in found if f] == [SUSPECT]  # told anew


def test_reset_forgets_everything() -> None:
    loops, pieces = ChannelLoops(), cut(UNIT * 60 + "\n" * 50 + "```\n")
    fresh = feed(list(pieces))
    for channel in ("text", "tool:0", "text"):
        loops.reset(channel)
        found = [f for i, piece in enumerate(pieces) if (f := loops.feed(i, token_id(piece), piece)) is not None]
        if channel == "text":
            assert found == fresh
        assert {f.channel for f in found} <= {channel}


def test_settings_are_used() -> None:
    strict = replace(LoopSettings(), prose=Thresholds(None, Threshold(3, 64), Threshold(6, 4000)))
    assert said(feed(UNIT * 60, given=strict))[0] == ("period", FALLBACK, 63)


@settings(max_examples=40)
@given(
    st.lists(
        st.sampled_from(
            [UNIT, UNIT * 40, prose(30), "\n```\n", "\n" * 90, "AAAA" * 99, "Step 7: do it\n" * 9, "ur" * 60]
        ),
        max_size=14,
    )
)
def test_a_finding_is_graver_than_the_last_and_begins_before_it_ends(parts: list[str]) -> None:
    loops, told = ChannelLoops(), None
    for i, piece in enumerate(cut("".join(parts))):
        found = loops.feed(i, token_id(piece), piece)
        if found is not None:
            assert told is None or found.grade > told
            assert found.grade is loops.grade
            assert 0 <= found.began <= found.position == i
            told = found.grade
        if loops.grade is None and not loops._exact.runs:
            told = None
