"""The promise itself: tokens, logit rows and state are those of plain decoding, bit for bit, on every architecture.

For every draft length 1..7, greedy and sampled, with penalties, right and wrong drafts, rewinds and switches at random
points, other sequences in the same forward, and contexts far beyond the width of a step. The plain decoding that all is
compared with runs the code itself, what is compared runs captured steps.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from torch import Tensor

from engine.drafters.mtp import MtpDrafter
from engine.engine import Engine
from engine.prefix import PrefixStore
from engine.sampler import SamplingParams
from engine.turn import Turn, TurnOptions
from tests.engine.zoo import ARCHITECTURES, mtp_tensors, variant, write

SAMPLINGS = {
    "greedy": SamplingParams(),
    "sampled": SamplingParams(temperature=0.9, top_k=200, top_p=0.98, min_p=0.001, seed=11),
    "penalised": SamplingParams(
        temperature=0.7, seed=12, repetition_penalty=1.2, presence_penalty=0.4, frequency_penalty=0.3
    ),
}
COUNT = 40


@dataclass(slots=True)
class Oracle:
    """Proposes what plain decoding said, each token wrong with a chance of `wrong`, in a length of its own."""

    truth: list[int]
    length: int
    wrong: float
    rng: random.Random
    name: str = "oracle"
    known: int = 0

    def begin(self, tokens: list[int]) -> None:
        self.known = len(tokens)

    def extend(self, tokens: list[int], hidden: Tensor | None) -> None:
        self.known += len(tokens)

    def truncate(self, length: int) -> None:
        self.known = min(self.known, length)

    def feedback(self, drafted: int, accepted: int) -> None: ...

    def propose(self, limit: int) -> list[int]:
        coming = self.truth[self.known : self.known + min(self.length, limit)]
        return [(t + 1) % 250 if self.rng.random() < self.wrong else t for t in coming]


@dataclass(slots=True)
class Trace:
    """What a turn has generated, with the logit row behind every token."""

    rows: list[bytes] = field(default_factory=list)
    least: int = 99
    most: int = 0


def step(turn: Turn, trace: Trace) -> None:
    draft = turn.propose()
    rows = turn.sequence.decode(draft.tokens)
    before = len(turn.generated)
    turn.accept(draft, rows, time.perf_counter())
    new = len(turn.generated) - before
    trace.rows = trace.rows[:before] + [row.numpy().tobytes() for row in rows.logits[:new]]
    trace.least, trace.most = min(trace.least, new), max(trace.most, new)


def state_hash(turn: Turn) -> str:
    """KV bytes, DeltaNet memories, convolution tails and the head's KV; the noise's position is the length itself."""
    head = turn.sequence.drafters.get("mtp")
    slots = 0
    if isinstance(head, MtpDrafter):
        head.catch_up()
        slots = turn.sequence.length
    return f"{turn.sequence.length}:{turn.sequence.state.fingerprint(slots)}"


@pytest.fixture(scope="module", params=ARCHITECTURES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    root = tmp_path_factory.mktemp("lossless")
    folder, sparse = write(root / "plain", request.param), "num_experts" in ARCHITECTURES[request.param][2]
    if "linear_num_key_heads" in ARCHITECTURES[request.param][2]:
        folder = variant(folder, root / "head", lambda tensors: tensors | mtp_tensors(sparse=sparse))
    engine = Engine(folder)
    engine.tokenizer.eos_ids = frozenset()  # a random model ends where it likes
    engine.max_blocks = 8
    engine.model.captures.on = True
    return engine


def check_captured(engine: Engine) -> None:
    """What was compared with plain decoding came from captured steps, but for experts, which need the host on a CPU."""
    captures = engine.model.captures
    assert captures.on == (not engine.model.config.moe), captures.why
    assert bool(len(captures)) == captures.on


def opened(engine: Engine, prompt: list[int], drafter: str, sampling: SamplingParams, count: int = COUNT) -> Turn:
    turn = engine.open(prompt, TurnOptions(sampling=sampling, drafter=drafter, max_tokens=count, audit_every=0))
    list(turn.sequence.prefill())
    return turn


def finished(turn: Turn) -> Trace:
    trace = Trace()
    while not turn.ended:
        step(turn, trace)
    return trace


def with_oracle(turn: Turn, truth: list[int], length: int, wrong: float) -> Turn:
    turn.sequence.drafters["oracle"] = Oracle(truth, length, wrong, random.Random(length), known=turn.prompt_tokens)
    turn.drafter = "oracle"
    turn.sequence.pacer.length = lambda source, limit, at: limit  # type: ignore[method-assign]
    return turn


def ids(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(250) for _ in range(count)]


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_every_draft_length_and_drafter_is_plain_decoding(engine: Engine, sampling: SamplingParams) -> None:
    prompt = ids(90) + ids(30) * 2
    with engine.model.captures.paused():
        plain_turn = opened(engine, prompt, "none", sampling)
        plain = finished(plain_turn)
    truth, expected = [*prompt, *plain_turn.generated], state_hash(plain_turn)

    def check(turn: Turn) -> Trace:
        trace = finished(turn)
        assert turn.generated == truth[len(prompt) :]
        assert trace.rows == plain.rows
        assert state_hash(turn) == expected
        assert trace.least >= 1
        return trace

    for length in range(1, 8):
        for wrong in (0.0, 0.3):
            trace = check(with_oracle(opened(engine, prompt, "none", sampling), truth, length, wrong))
            assert wrong or trace.most == length + 1
    check(with_oracle(opened(engine, prompt, "none", sampling), truth, 7, 1.0))
    for drafter in engine.drafters[1:]:
        check(opened(engine, prompt, drafter, sampling))
    check_captured(engine)


@pytest.mark.parametrize("sampling", [SAMPLINGS["greedy"], SAMPLINGS["penalised"]], ids=["greedy", "penalised"])
def test_rewinds_switches_and_company_change_nothing(engine: Engine, sampling: SamplingParams) -> None:
    """Three turns that join late and share forwards; each is rewound and switched at random points."""
    rng = random.Random(5)
    prompts = [ids(70, 1), ids(200, 2), ids(130, 3)]
    with engine.model.captures.paused():
        alone = [opened(engine, prompt, "none", sampling) for prompt in prompts]
        for turn in alone:
            finished(turn)
    engine.prefixes = PrefixStore(engine._new_sequence)
    turns = [engine.open(p, TurnOptions(sampling=sampling, max_tokens=COUNT, audit_every=0)) for p in prompts]
    joined: list[Turn] = []
    for round_ in range(400):
        if round_ % 4 == 0 and len(joined) < 3:
            turn, reference = turns[len(joined)], alone[len(joined)]
            list(turn.sequence.prefill())
            joined.append(with_oracle(turn, reference.sequence.tokens, rng.randint(1, 7), 0.2))
        running = [turn for turn in joined if not turn.ended]
        if len(joined) == 3 and not running:
            break
        for result in engine.step(running):
            if isinstance(result, Exception):
                raise result
        if round_ < 40 and rng.random() < 0.4:
            turn = rng.choice(joined)
            keep = rng.randint(0, max(len(turn.generated) - 1, 0))
            if turn.generated:
                turn.rewind(keep, rng.choice(("oracle", *engine.drafters)), trusted=rng.random() < 0.3)
    for turn, reference in zip(turns, alone, strict=True):
        assert turn.generated == reference.generated
        assert state_hash(turn) == state_hash(reference)
    check_captured(engine)


def test_a_prefix_hit_is_a_cold_start(engine: Engine) -> None:
    """The second turn of a conversation, on what the first left behind and on nothing."""
    sampling = SAMPLINGS["sampled"]
    first = opened(engine, ids(150), "none", sampling)
    finished(first)
    prompt = [*first.sequence.tokens, *ids(40, 6)]
    engine.close(first)
    warm = opened(engine, prompt, "none", sampling)
    assert warm.cached_tokens >= 128
    rows = finished(warm).rows
    engine.prefixes = PrefixStore(engine._new_sequence)
    cold = opened(engine, prompt, "none", sampling)
    assert cold.cached_tokens == 0
    assert (finished(cold).rows, cold.generated) == (rows, warm.generated)
    assert state_hash(cold) == state_hash(warm)


@pytest.mark.parametrize("context", [900, pytest.param(4000, marks=pytest.mark.slow)])
def test_contexts_far_beyond_a_step(
    engine: Engine, context: int, tmp_path: Path, edited: Callable[[Path, Path, int], Path]
) -> None:
    long = Engine(edited(engine.folder, tmp_path / "long", context + 200))
    long.tokenizer.eos_ids = frozenset()
    prompt, sampling = ids(context), SAMPLINGS["sampled"]
    plain_turn = opened(long, prompt, "none", sampling, 24)
    plain = finished(plain_turn)
    truth = [*prompt, *plain_turn.generated]
    turn = with_oracle(opened(long, prompt, "none", sampling, 24), truth, 5, 0.2)
    assert finished(turn).rows == plain.rows
    assert state_hash(turn) == state_hash(plain_turn)


@pytest.fixture
def edited() -> Callable[[Path, Path, int], Path]:
    def edit(source: Path, target: Path, window: int) -> Path:
        folder = variant(source, target, lambda tensors: tensors)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": window}))
        return folder

    return edit
