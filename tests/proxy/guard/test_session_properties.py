"""Promise 3 for random responses: with a fault in speculation the client gets what plain decoding sends."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from detectors.finding import Grade
from policies.modes import PLAIN, DecodeMode
from policies.policy import Policy
from policies.rules import Rule, When
from proxy.events import TextDelta
from tests.proxy.played import LS, play
from tests.proxy.scripted import Script, call_text, cut

WORDS = st.sampled_from([" so", " a", "b", "\n", ".", " <", "é", " tool_call", " 12"])
TEXTS = st.lists(WORDS, max_size=12).map("".join)
CALLS = st.sampled_from([LS, call_text("move", steps="4"), call_text("move")])
SCRIPTS = st.lists(st.tuples(TEXTS, CALLS), min_size=1, max_size=3)
BAD = st.sampled_from(
    [
        call_text("rm"),
        call_text("ls"),
        call_text("move", steps="x"),
        LS[:-14],
        call_text("ls", path=" go" * 600),
    ]
)


@given(SCRIPTS, TEXTS, BAD, st.data())
def test_with_one_bad_call_the_client_gets_what_plain_decoding_sends(
    script: list[tuple[str, str]], rest: str, bad: str, data: st.DataObject
) -> None:
    """A fault in speculation that ruins one call, and everything after it."""
    at = data.draw(st.integers(0, len(script) - 1))
    plain = "".join(text + call for text, call in script) + rest
    fast = "".join(text + call for text, call in script[:at]) + script[at][0] + bad + data.draw(TEXTS)
    width = data.draw(st.integers(1, 9))
    sound = play(plain, mode=PLAIN)
    healed = play(Script(plain, fast=fast, width=width))
    assert healed.told() == sound.told()
    assert healed.finished.token_ids == sound.finished.token_ids
    assert healed.sink.closures[0].culprit == "speculation"


@given(SCRIPTS, st.data())
def test_with_every_step_audited_no_fault_reaches_the_client(
    script: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Any token of the response may be wrong, in text, markup or arguments."""
    plain = "".join(text + call for text, call in script)
    at = data.draw(st.integers(0, len(plain)))
    fast = plain[:at] + data.draw(TEXTS) + plain[data.draw(st.integers(at, len(plain))) :]
    sound = play(plain, mode=PLAIN)
    healed = play(Script(plain, fast=fast, width=data.draw(st.integers(1, 9)), audited="all"))
    assert healed.told()[:-1] == sound.told()[:-1]
    if not healed.sink.incidents:
        assert fast == plain or cut(fast)[: len(cut(plain))] == cut(plain)


BOTH = DecodeMode("mtp+ngram", "k4v4")


@given(SCRIPTS, SCRIPTS, st.data())
def test_a_fault_of_speculation_leaves_the_cache_as_it_is(
    coded: list[tuple[str, str]], full: list[tuple[str, str]], data: st.DataObject
) -> None:
    """What a compressed cache says is something else than what a full one says, and is what the client gets."""
    packed = "".join(text + call for text, call in coded)
    at = data.draw(st.integers(0, len(packed)))
    fast = packed[:at] + data.draw(TEXTS) + packed[data.draw(st.integers(at, len(packed))) :]
    script = Script("".join(text + call for text, call in full), fast=fast, packed=packed, audited="all")
    sound = play(script, mode=DecodeMode("none", "k4v4"))
    healed = play(replace(script, width=data.draw(st.integers(1, 9))), mode=BOTH)
    if healed.sink.incidents[:1] and healed.sink.incidents[0].detector == "drift.audit":
        assert healed.told() == sound.told()
        assert healed.generation.rewinds[0][1] == "none/k4v4"


@given(SCRIPTS, TEXTS, BAD, st.data())
def test_whatever_rung_is_taken_first_the_last_one_says_what_plain_says(
    script: list[tuple[str, str]], rest: str, bad: str, data: st.DataObject
) -> None:
    """One bad call in every mode but plain: two rungs, nothing repeated, nothing lost."""
    at = data.draw(st.integers(0, len(script) - 1))
    plain = "".join(text + call for text, call in script) + rest
    spoiled = "".join(text + call for text, call in script[:at]) + script[at][0] + bad + data.draw(TEXTS)
    calls = Rule("calls", When(("tool.*",), Grade.FALLBACK), ("rewind", "end"), "speculation")
    loops = Rule("loops", When(("loop.*",), Grade.FALLBACK), ("rewind", "hold"), "speculation")
    policy = Policy(rules=(calls, loops, *Policy().rules))
    sound = play(plain, mode=PLAIN)
    healed = play(Script(plain, fast=spoiled, packed=spoiled, width=data.draw(st.integers(1, 9))), policy, BOTH)
    assert healed.told() == sound.told()
    assert [mode for _, mode, _ in healed.generation.rewinds] == ["none/k4v4", "plain"]


@given(SCRIPTS, TEXTS, BAD, st.data())
def test_logprobs_are_of_the_text_that_the_client_gets(
    script: list[tuple[str, str]], rest: str, bad: str, data: st.DataObject
) -> None:
    """Every token of the text once and in order, none of a call, whatever was held, cut off or thrown away."""
    plain = "".join(text + call for text, call in script) + rest
    fast = script[0][0] + bad + data.draw(TEXTS)
    stop = data.draw(st.sampled_from([(), ("12",), (" a b",)]))
    sound = play(plain, mode=PLAIN, logprobs=1, stop=stop)
    healed = play(Script(plain, fast=fast, width=data.draw(st.integers(1, 9))), logprobs=1, stop=stop)
    for played in (sound, healed):
        deltas = [event for event in played.events if isinstance(event, TextDelta) and event.logprobs]
        reported = b"".join(entry.data for delta in deltas for entry in delta.logprobs).decode()
        told = played.text
        if not stop:
            assert "".join(reported.split()) == "".join(told.split())
        else:  # the token in which a stop string begins is reported whole if some of it was sent
            assert "".join(reported.split()).startswith("".join(told.split()))
        assert all(entry.top[0] == (entry.data, -0.5) for delta in deltas for entry in delta.logprobs)
    if sound.told() == healed.told():
        entries = [
            [entry for e in played.events if isinstance(e, TextDelta) for entry in e.logprobs]
            for played in (sound, healed)
        ]
        assert entries[0] == entries[1]
