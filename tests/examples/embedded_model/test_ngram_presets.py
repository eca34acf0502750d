"""The measurement behind the n-gram presets: real conversations, the engine's drafters, honest counts."""

from __future__ import annotations

from functools import cache

import pytest

from engine.drafters.ngram import AGENT, HINT, PUBLISHED
from engine.engine import EMBEDDED
from engine.pacing import TYPICAL
from engine.tokenizer import Tokenizer
from examples.embedded_model.ngram_presets import Conversation, agreeing, conversation, measure


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(EMBEDDED)


@cache
def talks() -> list[Conversation]:
    return [conversation(seed, tokenizer()) for seed in range(6)]


def test_turns_are_what_the_assistant_wrote() -> None:
    for talk in talks():
        for begin, end in talk.turns:
            text = tokenizer().decode(talk.ids[begin:end])
            assert text.startswith(("<tool_call>", "The fault", "Fixed")), text
        assert tokenizer().decode(talk.ids[: talk.turns[0][0]]).endswith("<|im_start|>assistant\n")


def test_every_generated_token_is_counted_once() -> None:
    tokens = sum(end - begin for talk in talks() for begin, end in talk.turns)
    for tiers, mtp in (([AGENT], None), ([AGENT, HINT], None), ([AGENT, HINT], 0.8), ([], None)):
        assert measure(talks(), tiers, mtp).tokens == tokens
    nothing = measure(talks(), [])
    assert (nothing.steps, nothing.drafted) == (tokens, 0)
    assert nothing.milliseconds == pytest.approx(tokens * TYPICAL.step_ms)


def test_the_presets_are_ordered_as_their_docstrings_say() -> None:
    def rate(*tiers: object, mtp: float | None = None) -> float:
        tally = measure(talks(), list(tiers), mtp)  # type: ignore[arg-type]
        return tally.tokens / tally.milliseconds

    assert rate(AGENT, HINT) > rate(HINT) > rate(AGENT) > rate(PUBLISHED)
    assert rate(AGENT, HINT, mtp=0.8) > max(rate(HINT, mtp=0.8), rate(AGENT, mtp=0.8), rate(mtp=0.8))


def test_a_draft_is_right_up_to_the_first_difference() -> None:
    assert agreeing([1, 2, 3], [1, 2, 4, 5]) == 2
    assert agreeing([1, 2], [1, 2, 3]) == 2
    assert agreeing([], [1]) == 0
