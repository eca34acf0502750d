"""Penalties, biases and filters under speculation: tokens and numbers are plain decoding's, bit for bit."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from engine.drafters.mtp import MtpDrafter
from engine.engine import EMBEDDED
from engine.model import Model
from engine.penalties import Penalties
from engine.reports import StepReport, TokenReport
from engine.sampler import SamplingParams
from engine.tokenizer import Tokenizer
from engine.turn import Turn, TurnOptions
from tests.engine import test_turn as turns

torch.set_num_threads(1)

COUNT = 32
BIAS = ((97, 3.0), (101, -100.0), (10, 1.5))
SAMPLINGS = {
    "greedy": SamplingParams(repetition_penalty=1.2, presence_penalty=0.4, frequency_penalty=0.3, logit_bias=BIAS),
    "repetition": SamplingParams(0.8, seed=1, repetition_penalty=1.3),
    "presence": SamplingParams(1.0, top_k=30, seed=2, presence_penalty=1.5),
    "frequency": SamplingParams(0.7, top_p=0.9, seed=3, frequency_penalty=0.8),
    "bias": SamplingParams(1.2, min_p=0.02, seed=4, logit_bias=BIAS),
    "encouraged": SamplingParams(0.6, top_k=20, top_p=0.95, seed=5, repetition_penalty=0.8, frequency_penalty=-0.2),
    "all": SamplingParams(0.9, 40, 0.95, 0.01, 6, 1.1, 0.5, 0.2, BIAS),
}
Loaded = tuple[Model, Tokenizer]


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> Loaded:
    return Model.load(tiny_folder), Tokenizer.load(tiny_folder)


@pytest.fixture(scope="module")
def embedded() -> Loaded:
    return Model.load(EMBEDDED), Tokenizer.load(EMBEDDED)


def start(loaded: Loaded, drafter: str, sampling: SamplingParams, right: float = 1.0, **options: object) -> Turn:
    """right: for drafter `fixed`, how often its guess of plain decoding's next token is right."""
    sequence = turns.sequence_for(*loaded)
    if drafter == "fixed":
        sequence.drafters["fixed"] = turns.Fixed(plainly(loaded, sampling), right, seed=3)
    options = {"max_tokens": COUNT, "logprobs": 3, **options}
    turn = turns.start(loaded, drafter, sampling, sequence=sequence, **options)
    mtp = sequence.drafters["mtp"]
    assert isinstance(mtp, MtpDrafter)
    mtp.penalties = turn.penalties
    return turn


@cache
def plainly(loaded: Loaded, sampling: SamplingParams) -> tuple[int, ...]:
    """Prompt and response of plain decoding."""
    plain = start(loaded, "none", sampling)
    turns.run(plain)
    return tuple(plain.sequence.tokens)


def tokens(reports: list[StepReport]) -> list[TokenReport]:
    """Without texts: held text may be released with another token."""
    return [replace(token, text="") for report in reports for token in report.tokens]


def counts(turn: Turn) -> Penalties:
    """What the turn should have counted."""
    fresh = Penalties(turn.options.sampling, turn.tokenizer.vocab_size, turn.sequence.tokens[: turn.prompt_tokens])
    fresh.extend(turn.generated)
    return fresh


def check_counts(turn: Turn) -> None:
    ones = torch.ones(1, turn.tokenizer.vocab_size)
    found, expected = turn.penalties.adjust(ones), counts(turn).adjust(ones)
    assert (found is None) == (expected is None)
    assert found is None or expected is None or torch.equal(found, expected)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_drafter_gives_plain_decodings_tokens_and_numbers(loaded: Loaded, name: str) -> None:
    sampling = SAMPLINGS[name]
    plain = start(loaded, "none", sampling)
    expected = tokens(turns.run(plain))
    for drafter, right in (("ngram", 1), ("mtp", 1), ("mtp+ngram", 1), ("fixed", 0.0), ("fixed", 0.8), ("fixed", 1.0)):
        turn = start(loaded, drafter, sampling, right)
        reports = turns.run(turn)
        assert tokens(reports) == expected, drafter
        assert turn.generated == plain.generated
        assert turn.sequence.state.fingerprint() == plain.sequence.state.fingerprint()
        check_counts(turn)
        if drafter == "fixed" and len(expected) > 10:
            assert sum(report.drafted for report in reports) > 0
            assert (sum(report.accepted for report in reports) > 0) == (right > 0)


@pytest.mark.parametrize("name", ["greedy", "all"])
@pytest.mark.parametrize("drafter", ["ngram", "mtp", "mtp+ngram"])
def test_on_the_embedded_model(embedded: Loaded, name: str, drafter: str) -> None:
    sampling = SAMPLINGS[name]
    expected = tokens(turns.run(start(embedded, "none", sampling)))
    assert tokens(turns.run(start(embedded, drafter, sampling))) == expected


@pytest.mark.parametrize("length", range(1, 8))
def test_every_draft_length(loaded: Loaded, length: int) -> None:
    sampling = SAMPLINGS["all"]
    expected = tokens(turns.run(start(loaded, "none", sampling)))
    assert tokens(turns.run(start(loaded, "fixed", sampling, 0.9, max_draft=length))) == expected


@pytest.mark.parametrize("seed", range(8))
def test_rewinds_and_switches_at_random_points(loaded: Loaded, seed: int) -> None:
    rng = random.Random(seed)
    sampling = SAMPLINGS[rng.choice(list(SAMPLINGS))]
    plain = start(loaded, "none", sampling)
    expected = tokens(turns.run(plain))
    turn = start(loaded, "fixed", sampling, 0.9)
    seen: list[TokenReport] = []
    for _ in range(6):
        seen += tokens(turns.run(turn, rng.randint(1, 6)))
        kept = rng.randint(0, len(turn.generated) - 1)
        drafter = rng.choice(["none", "ngram", "mtp", "mtp+ngram", "fixed"])
        turn.rewind(kept, drafter, trusted=rng.random() < 0.3)
        del seen[kept:]
        check_counts(turn)
    seen += tokens(turns.run(turn))
    assert seen == expected
    assert turn.generated == plain.generated
    assert turn.sequence.state.fingerprint() == plain.sequence.state.fingerprint()
    check_counts(turn)


def test_a_second_turn_counts_from_its_own_prompt(loaded: Loaded) -> None:
    """On a reused sequence the first response is prompt: presence and frequency no longer count it."""
    sampling = SAMPLINGS["all"]
    outcomes = []
    for drafter in ("none", "mtp+ngram"):
        first = start(loaded, drafter, sampling)
        turns.run(first)
        longer = [*first.sequence.tokens, *loaded[1].encode("<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n")]
        options: dict[str, object] = {"max_tokens": COUNT, "logprobs": 3, "prompt": longer}
        second = turns.start(loaded, drafter, sampling, sequence=first.sequence, **options)  # type: ignore[arg-type]
        mtp = second.sequence.drafters["mtp"]
        assert isinstance(mtp, MtpDrafter)
        mtp.penalties = second.penalties
        outcomes.append(tokens(turns.run(second)))
        check_counts(second)
    assert outcomes[0] == outcomes[1]


def test_mtp_drafts_with_the_turns_penalties(loaded: Loaded) -> None:
    """A forced token is drafted as such; a drafter without the bias would never be right."""
    sampling = SamplingParams(logit_bias=((97, 100.0),))
    reports = turns.run(start(loaded, "mtp", sampling))
    assert {token.id for token in tokens(reports)} == {97}
    drafted = sum(report.drafted for report in reports)
    assert drafted > COUNT // 2
    assert sum(report.accepted for report in reports) == drafted


def test_mtp_drafts_count_the_drafts_before_them(loaded: Loaded) -> None:
    """Three forced tokens that wear out when they are said: the second draft must know the first."""
    sampling = SamplingParams(logit_bias=((200, 100.0), (201, 75.0), (202, 50.0)), repetition_penalty=10)
    report = start(loaded, "mtp", sampling).step()
    assert [token.id for token in report.tokens][:3] == [200, 201, 202]
    assert (report.drafted, report.accepted) == (3, 3)


@pytest.mark.parametrize("name", ["greedy", "all"])
def test_limits_and_stops_cut_accepted_runs(loaded: Loaded, name: str) -> None:
    sampling = SAMPLINGS[name]
    plain = start(loaded, "none", sampling)
    reports = turns.run(plain)
    text = turns.said(reports)
    for limit in range(1, 10):
        turn = start(loaded, "fixed", sampling, max_tokens=limit)
        cut = turns.run(turn)
        assert tokens(cut) == tokens(reports)[:limit]
        assert cut[-1].end == "length"
        check_counts(turn)
    for at in range(2, 20, 3):
        stop = text[at : at + 2]
        shown = text[: text.index(stop)]
        turn = start(loaded, "fixed", sampling, stops=(stop,))
        cut = turns.run(turn)
        assert (cut[-1].end, cut[-1].stop_sequence, turns.said(cut)) == ("stop_sequence", stop, shown)
        check_counts(turn)
        # going on after the end, without the tokens that were cut off
        turn.options = replace(turn.options, stops=())
        kept = len(turn.generated) - 1
        turn.rewind(kept, "mtp+ngram", trusted=False)
        assert tokens(turns.run(turn)) == tokens(reports)[kept:]


def test_alternatives_are_the_models_own(loaded: Loaded) -> None:
    """Biases and penalties change what is chosen, not what is reported of the model."""
    banned = SamplingParams(logit_bias=((97, 100.0),))
    forced = tokens(turns.run(start(loaded, "fixed", banned, logprobs=20)))
    for token in forced:
        assert token.id == 97
        assert len(token.top) == 20
        assert [p for _, p in token.top] == sorted((p for _, p in token.top), reverse=True)
        assert dict(token.top).get(97, token.logprob) == token.logprob
        assert torch.tensor([p for _, p in token.top]).exp().sum() <= 1 + 1e-6
    assert any(token.top[0][0] != 97 for token in forced)


@pytest.mark.parametrize("value", [-1, 21])
def test_the_number_of_alternatives_is_limited(value: int) -> None:
    with pytest.raises(ValueError, match=r"^logprobs: "):
        TurnOptions(logprobs=value)
