"""Same seed, same text: any drafter, any switch, any rewind gives the tokens of plain decoding, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from engine.drafters.mtp import MtpDrafter
from engine.drafters.ngram import NgramDrafter, NgramParams
from engine.drafting import SHORT
from engine.engine import EMBEDDED
from engine.faults import Fault
from engine.model import Model
from engine.pacing import DEAD_AFTER, DEAD_PROPOSALS, Costs, Pacer
from engine.reports import StepReport
from engine.sampler import SamplingParams
from engine.sequence import Sequence as TokenSequence
from engine.tokenizer import Tokenizer
from engine.turn import Turn, TurnOptions

GREEDY = SamplingParams()
WARM = SamplingParams(temperature=0.8, seed=1234)
COUNT = 48


class Fixed:
    """Proposes from a list of what will come, right or wrong on demand."""

    name = "fixed"

    def __init__(self, truth: Sequence[int], right: float, seed: int = 0) -> None:
        self.truth, self.right, self.rng, self.known = list(truth), right, random.Random(seed), 0

    def begin(self, tokens: Sequence[int]) -> None:
        self.known = len(tokens)

    def extend(self, tokens: Sequence[int], hidden: Tensor | None) -> None:
        self.known += len(tokens)

    def truncate(self, length: int) -> None:
        self.known = min(self.known, length)

    def feedback(self, drafted: int, accepted: int) -> None:
        assert 0 <= accepted <= drafted

    def propose(self, limit: int) -> list[int]:
        coming = self.truth[self.known : self.known + self.rng.randint(1, limit)]
        return [t if self.rng.random() < self.right else (t + 1) % 256 for t in coming]


@pytest.fixture(scope="module", params=["random", "embedded"])
def loaded(request: pytest.FixtureRequest, tiny_folder: Path) -> tuple[Model, Tokenizer]:
    folder = tiny_folder if request.param == "random" else EMBEDDED
    return Model.load(folder), Tokenizer.load(folder)


def prompt_for(tokenizer: Tokenizer) -> list[int]:
    words = "red green blue red green blue red green"
    return tokenizer.encode(f"<|im_start|>user\n{words}<|im_end|>\n<|im_start|>assistant\n")


def sequence_for(model: Model, tokenizer: Tokenizer) -> TokenSequence:
    sequence = TokenSequence(model)
    sequence.drafters = {
        "ngram": NgramDrafter(NgramParams(n_match=3, n_min=1, n_max=8)),
        SHORT: NgramDrafter(NgramParams(n_match=1, n_min=1, n_max=8)),
        "mtp": MtpDrafter(model, lambda: sequence.state, min(tokenizer.vocab_size, model.config.vocab_size)),
    }
    return sequence


def start(
    loaded: tuple[Model, Tokenizer],
    drafter: str = "none",
    sampling: SamplingParams = GREEDY,
    fault: Fault | None = None,
    sequence: TokenSequence | None = None,
    prompt: list[int] | None = None,
    **options: object,
) -> Turn:
    model, tokenizer = loaded
    sequence = sequence or sequence_for(model, tokenizer)
    for each in sequence.drafters.values():
        if isinstance(each, MtpDrafter):
            each.sampling = sampling
    fields = {"max_tokens": COUNT, **options}
    made = TurnOptions(sampling=sampling, drafter=drafter, **fields)  # type: ignore[arg-type]
    turn = Turn(sequence, prompt or prompt_for(tokenizer), tokenizer, made, fault)
    for _ in sequence.prefill():
        pass
    return turn


def run(turn: Turn, steps: int | None = None) -> list[StepReport]:
    reports: list[StepReport] = []
    while not turn.ended and (steps is None or len(reports) < steps):
        reports.append(turn.step())
    return reports


def said(reports: list[StepReport]) -> str:
    return "".join("".join(token.text for token in report.tokens) + report.tail for report in reports)


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "0.8"])
@pytest.mark.parametrize("drafter", ["ngram", "mtp", "mtp+ngram"])
def test_every_drafter_gives_the_tokens_of_plain(
    loaded: tuple[Model, Tokenizer], sampling: SamplingParams, drafter: str
) -> None:
    plain, fast = start(loaded, "none", sampling), start(loaded, drafter, sampling)
    run(plain)
    reports = run(fast)
    assert fast.generated == plain.generated
    assert fast.sequence.state.fingerprint() == plain.sequence.state.fingerprint()
    assert all(r.audit is None or r.audit.mismatch is None for r in reports)
    again = run(start(loaded, "none", sampling))
    assert said(reports) == said(again)


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "0.8"])
@pytest.mark.parametrize("right", [0.0, 0.5, 0.9, 1.0])
def test_no_drafter_can_change_the_tokens(
    loaded: tuple[Model, Tokenizer], sampling: SamplingParams, right: float
) -> None:
    plain = start(loaded, "none", sampling)
    run(plain)
    sequence = sequence_for(*loaded)
    fixed = Fixed(plain.sequence.tokens, right, seed=int(right * 10))
    sequence.drafters["fixed"] = fixed
    turn = start(loaded, "fixed", sampling, sequence=sequence)
    reports = run(turn)
    assert turn.generated == plain.generated
    assert turn.sequence.state.fingerprint() == plain.sequence.state.fingerprint()
    drafted, accepted = sum(r.drafted for r in reports), sum(r.accepted for r in reports)
    if len(plain.generated) > 10:
        assert drafted > 0
        assert right < 1 or accepted > 0.6 * drafted
        assert right > 0 or accepted == 0


@pytest.mark.parametrize("seed", range(6))
def test_switching_off_at_any_token_changes_nothing(loaded: tuple[Model, Tokenizer], seed: int) -> None:
    rng = random.Random(seed)
    sampling = rng.choice([GREEDY, WARM])
    plain = start(loaded, "none", sampling)
    run(plain)
    turn = start(loaded, "mtp+ngram", sampling)
    run(turn, rng.randint(1, 8))
    kept = rng.randint(0, len(turn.generated))
    trusted = rng.random() < 0.5
    report = turn.rewind(kept, "none", trusted=trusted)
    assert (report.position, len(turn.generated)) == (kept, kept)
    reports = run(turn)
    assert not any(r.drafted for r in reports)
    assert turn.generated == plain.generated
    assert turn.sequence.state.fingerprint() == plain.sequence.state.fingerprint()


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "0.8"])
def test_a_planted_fault_is_audited_and_healed(loaded: tuple[Model, Tokenizer], sampling: SamplingParams) -> None:
    plain = start(loaded, "none", sampling)
    run(plain)
    sequence = sequence_for(*loaded)
    sequence.drafters["fixed"] = Fixed(plain.sequence.tokens, 0.9)
    faulty = start(loaded, "fixed", sampling, Fault.VERIFY_IGNORES_CACHE, sequence, audit_every=1000)
    reports = run(faulty, 6)
    first = next(r for r in reports if r.drafted)
    assert first.audit is not None
    assert first.audit.mismatch is not None
    assert first.audit.max_abs_diff > 0
    faulty.rewind(first.position, "none", trusted=True)
    run(faulty)
    assert faulty.generated == plain.generated
    assert faulty.sequence.state.fingerprint() == plain.sequence.state.fingerprint()
    assert faulty.sequence.speculated_from is None


def test_the_next_turn_on_a_healed_sequence_is_plain_too(loaded: tuple[Model, Tokenizer]) -> None:
    tokenizer = loaded[1]
    prompt = tokenizer.encode("<|im_start|>user\nA question long enough to be kept: " + "why? " * 80 + "<|im_end|>\n")
    plain = start(loaded, max_tokens=12, prompt=prompt)
    run(plain)
    sequence = sequence_for(*loaded)
    sequence.drafters["fixed"] = Fixed(plain.sequence.tokens, 0.9)
    healed = start(loaded, "fixed", GREEDY, Fault.VERIFY_IGNORES_CACHE, sequence, max_tokens=12, prompt=prompt)
    run(healed, 3)
    healed.rewind(0, "none", trusted=True)
    run(healed)
    longer = [*plain.sequence.tokens, *tokenizer.encode("<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n")]
    turns = [start(loaded, max_tokens=12, sequence=s, prompt=longer) for s in (plain.sequence, healed.sequence)]
    for turn in turns:
        run(turn)
    assert turns[0].cached_tokens == turns[1].cached_tokens
    assert turns[0].cached_tokens > 0
    assert turns[0].generated == turns[1].generated
    assert turns[0].sequence.state.fingerprint() == turns[1].sequence.state.fingerprint()


def test_token_limits_cut_inside_an_accepted_run(loaded: tuple[Model, Tokenizer]) -> None:
    plain = start(loaded)
    run(plain)
    for limit in range(1, 12):
        if limit >= len(plain.generated):
            break
        sequence = sequence_for(*loaded)
        sequence.drafters["fixed"] = Fixed(plain.sequence.tokens, 1.0)
        turn = start(loaded, "fixed", sequence=sequence, max_tokens=limit)
        reports = run(turn)
        assert turn.generated == plain.generated[:limit]
        assert reports[-1].end == "length"


@pytest.mark.parametrize("max_tokens", [None, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_the_context_window_cuts_inside_an_accepted_run(
    loaded: tuple[Model, Tokenizer], right: float, max_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = start(loaded, "none", WARM)
    run(plain)
    for room in range(1, 12):
        if room >= len(plain.generated):
            break
        small = replace(loaded[0].config, max_context=plain.prompt_tokens + room)
        monkeypatch.setattr(loaded[0], "config", small)
        sequence = sequence_for(*loaded)
        sequence.drafters["fixed"] = Fixed(plain.sequence.tokens, right)
        turn = start(loaded, "fixed", WARM, sequence=sequence, max_tokens=max_tokens)
        reports = run(turn)
        assert turn.generated == plain.generated[:room]
        assert reports[-1].end == "length"
        monkeypatch.undo()


def test_rejected_drafts_are_speculation_too(loaded: tuple[Model, Tokenizer]) -> None:
    plain = start(loaded)
    run(plain)
    sequence = sequence_for(*loaded)
    sequence.drafters["fixed"] = Fixed(plain.sequence.tokens, 0.0)
    turn = start(loaded, "fixed", sequence=sequence, max_tokens=4)
    run(turn)
    assert turn.sequence.speculated_from is not None


def test_stop_strings_cut_inside_an_accepted_run(loaded: tuple[Model, Tokenizer]) -> None:
    plain = start(loaded, "none", WARM)
    text = "".join(t.text for r in run(plain) for t in r.tokens)
    stop = next((text[i : i + 2] for i in range(3, len(text) - 4) if text[i : i + 2].isascii()), None)
    if stop is None:
        pytest.skip("the model said too little to stop it")
    sequence = sequence_for(*loaded)
    sequence.drafters["fixed"] = Fixed(plain.sequence.tokens, 1.0)
    turn = start(loaded, "fixed", WARM, sequence=sequence, stops=(stop,))
    reports = run(turn)
    assert "".join(t.text for r in reports for t in r.tokens) == text[: text.index(stop)]
    assert (reports[-1].end, reports[-1].stop_sequence) == ("stop_sequence", stop)


def ending_with(tokenizer: Tokenizer, token: int) -> Tokenizer:
    ends = Tokenizer(tokenizer._backend, tokenizer.eos_ids)
    ends.eos_ids = frozenset({token})
    return ends


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_an_end_releases_the_text_that_was_held(loaded: tuple[Model, Tokenizer], right: float) -> None:
    model, tokenizer = loaded
    full = start(loaded, "none", WARM)
    run(full)
    tails = 0
    for at in range(6, 30):
        ids = full.generated[:at]
        if full.generated[at] in ids:  # the end would come earlier
            continue
        text = tokenizer.decode(ids)
        for stops in ((), (f"{text[-1]}\0never",)):
            sequence = sequence_for(*loaded)
            sequence.drafters["fixed"] = Fixed(full.sequence.tokens, right)
            drafter = "fixed" if right else "none"
            turn = start(
                (model, ending_with(tokenizer, full.generated[at])), drafter, WARM, sequence=sequence, stops=stops
            )
            reports = run(turn)
            assert reports[-1].end == "stop"
            assert said(reports) == text
            tails += bool(reports[-1].tail)
    assert tails > 3


def test_a_length_limit_releases_the_text_that_was_held(loaded: tuple[Model, Tokenizer]) -> None:
    full = start(loaded, "none", WARM)
    run(full)
    for limit in range(3, min(20, len(full.generated))):
        text = loaded[1].decode(full.generated[:limit])
        turn = start(loaded, "none", WARM, max_tokens=limit, stops=(f"{text[-1]}\0never",))
        reports = run(turn)
        assert (reports[-1].end, said(reports)) == ("length", text)
        assert reports[-1].tail


def test_a_rewind_forgets_held_text_and_half_characters(loaded: tuple[Model, Tokenizer]) -> None:
    full = start(loaded, "none", WARM)
    run(full)
    length = min(16, len(full.generated))
    whole = loaded[1].decode(full.generated[:length])
    for kept in range(length):
        head = loaded[1].decode(full.generated[: kept + 1])
        turn = start(loaded, "none", WARM, max_tokens=length, stops=(f"{head[-1]}\0never",))
        before = run(turn, kept + 2 if kept + 2 < length else kept + 1)
        turn.rewind(kept, "none", trusted=False)
        shown = "".join(token.text for report in before for token in report.tokens[: max(kept - report.position, 0)])
        assert shown + said(run(turn)) == whole


def test_a_finished_turn_cannot_be_continued_behind_its_end(loaded: tuple[Model, Tokenizer]) -> None:
    turn = start(loaded, max_tokens=4)
    run(turn)
    with pytest.raises(ValueError, match="ended there"):
        turn.rewind(len(turn.generated), "none", trusted=False)
    assert len(turn.generated) == 4


def test_a_turn_can_be_rewound_after_its_end(loaded: tuple[Model, Tokenizer]) -> None:
    turn = start(loaded, "mtp")
    run(turn)
    before = list(turn.generated)
    with pytest.raises(RuntimeError, match="ended"):
        turn.step()
    turn.rewind(len(before) // 2, "none", trusted=False)
    run(turn)
    assert turn.generated == before
    with pytest.raises(ValueError, match="cannot rewind"):
        turn.rewind(len(before) + 1, "none", trusted=False)


class Scripted(Fixed):
    """Always the same proposal."""

    def __init__(self, name: str, tokens: list[int]) -> None:
        super().__init__((), 1.0)
        self.name, self.tokens, self.asked = name, tokens, 0

    def propose(self, limit: int) -> list[int]:
        self.asked += 1
        return self.tokens[:limit]


def sequence_with(loaded: tuple[Model, Tokenizer], costs: Costs, **drafters: Fixed) -> TokenSequence:
    sequence = sequence_for(*loaded)
    sequence.drafters |= {name.replace("_", "-"): drafter for name, drafter in drafters.items()}
    sequence.pacer = Pacer(costs, sequence.model.rows - 1)
    return sequence


@pytest.mark.parametrize("sampling", [pytest.param(GREEDY, marks=pytest.mark.slow), WARM], ids=["greedy", "0.8"])
@pytest.mark.parametrize("costs", [Costs(1, 0, 0, 0), Costs(1, 0.03, 0.2, 0.15), Costs(1, 0, 3, 3)])
def test_no_pace_changes_the_tokens(loaded: tuple[Model, Tokenizer], sampling: SamplingParams, costs: Costs) -> None:
    plain = start(loaded, "none", sampling)
    run(plain)
    for drafter in ("ngram", "mtp", "mtp+ngram"):
        turn = start(loaded, drafter, sampling, sequence=sequence_with(loaded, costs))
        reports = run(turn)
        assert turn.generated == plain.generated
        assert all(report.drafted <= 7 and len(report.tokens) + (report.end == "stop") >= 1 for report in reports)


def test_a_drafter_that_is_always_wrong_is_declared_dead_once(loaded: tuple[Model, Tokenizer]) -> None:
    """In the middle of near-ties or of nonsense: every step commits a token all the same."""
    plain = start(loaded, "none", WARM, max_tokens=80)
    run(plain)
    if len(plain.generated) < 80:
        pytest.skip("the model said too little")
    sequence = sequence_for(*loaded)
    sequence.drafters["fixed"] = Fixed(plain.sequence.tokens, 0.0)
    turn = start(loaded, "fixed", WARM, sequence=sequence, max_tokens=80)
    reports = run(turn)
    assert turn.generated == plain.generated
    assert [len(r.tokens) for r in reports] == [1] * 80
    dead = [i for i, r in enumerate(reports) if r.dead_drafter is not None]
    assert [reports[i].dead_drafter for i in dead] == ["fixed"]
    before, after = reports[: dead[0] + 1], reports[dead[0] + 1 :]
    assert sum(r.drafted for r in before) >= DEAD_AFTER
    assert len(before) >= DEAD_PROPOSALS
    assert not any(r.drafted for r in after)
    turn.rewind(40, "fixed", trusted=False)
    assert not any(r.drafted for r in run(turn)), "for the rest of this history"
    other = prompt_for(loaded[1])[::-1]
    assert any(r.drafted for r in run(start(loaded, "fixed", WARM, sequence=sequence, prompt=other), 3))


def test_a_hint_stands_back_where_the_head_promises_more(loaded: tuple[Model, Tokenizer]) -> None:
    plain = start(loaded, "none", WARM)
    run(plain)
    length = len(plain.generated)
    for right, wins in ((1.0, "mtp"), (0.0, "ngram")):
        wrong_or_right = {
            "ngram_short": Fixed(plain.sequence.tokens, 1 - right),
            "mtp": Fixed(plain.sequence.tokens, right),
        }
        for name, drafter in wrong_or_right.items():
            drafter.name = name.removesuffix("_short")
        sequence = sequence_with(loaded, Costs(1, 0.01, 0.1, 0.1), ngram=Scripted("ngram", []), **wrong_or_right)
        turn = start(loaded, "mtp+ngram", WARM, sequence=sequence)
        reports = run(turn)
        assert turn.generated == plain.generated
        late = [r.source for r in reports[len(reports) // 2 :] if r.drafted]
        assert length < 20 or (late and set(late) == {wins})


def test_a_hint_that_stood_back_is_asked_again_once_it_would_have_been_right(loaded: tuple[Model, Tokenizer]) -> None:
    plain = start(loaded, "none", WARM, max_tokens=120)
    run(plain)
    if len(plain.generated) < 120:
        pytest.skip("the model said too little")
    truth, first = plain.sequence.tokens, plain.prompt_tokens
    hint, head = Fixed([], 1.0), Fixed(truth, 1.0)
    hint.truth = [t if i > first + 30 else (t + 1) % 256 for i, t in enumerate(truth)]
    hint.name, head.name = "ngram", "mtp"
    sequence = sequence_with(loaded, Costs(1, 0.01, 0.3, 0.3), ngram=Scripted("ngram", []), ngram_short=hint, mtp=head)
    reports = run(start(loaded, "mtp+ngram", WARM, sequence=sequence, max_tokens=120))
    sources = [r.source for r in reports if r.drafted]
    assert sources.index("mtp") < 8, "the hint was wrong"
    assert sources[-12:].count("ngram") >= 4, "and then it was right, at less cost"


def test_a_sure_match_goes_first_and_is_reported_by_its_name(loaded: tuple[Model, Tokenizer]) -> None:
    plain = start(loaded)
    run(plain)
    sure, hint, head = Fixed(plain.sequence.tokens, 1.0), Scripted("ngram", [1]), Scripted("mtp", [1])
    sure.name = "ngram"
    sequence = sequence_with(loaded, Costs(1), ngram=sure, ngram_short=hint, mtp=head)
    reports = run(start(loaded, "mtp+ngram", sequence=sequence))
    assert {r.source for r in reports if r.drafted} == {"ngram"}
    assert hint.asked + head.asked <= 1, "only where nothing is left to draft"
