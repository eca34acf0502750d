"""The distribution of a real Turn on a real Sequence: only the model is a table, so that the exact answer is known.

One long response is cut into blocks of LENGTH tokens; the table forgets what came before a block, so the blocks are
samples of the chain that tests/engine/test_distribution.py enumerates.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
import torch
from torch import Tensor

import engine.turn
from engine.model import Rows
from engine.sampler import Choice, SamplingParams, choose, pick
from engine.sequence import Sequence as TokenSequence
from engine.tokenizer import Tokenizer
from engine.turn import Turn, TurnOptions
from engine.verify import accepted_run
from tests.engine.test_distribution import DRAFTER, FOUND, LENGTH, PROMPT, TABLE, VOCAB, chi_square_p, marginals, target

torch.set_num_threads(1)

BLOCKS = 800
PARAMS = {
    "1.0": SamplingParams(temperature=1.0, seed=21),
    "filters": SamplingParams(0.7, top_k=9, top_p=0.95, min_p=0.02, seed=22, logit_bias=((2, 1.0), (6, -1.5))),
}


@dataclass
class TableState:
    """How far a sequence has come; a table needs to remember nothing."""

    length: int = 0
    kv: tuple[()] = ()

    def checkpoint(self) -> None: ...

    def nearest(self, position: int) -> int:
        return position

    def rewind(self, position: int) -> None:
        self.length = position


@dataclass
class TableModel:
    """Logits from the last token alone, and from the prompt's last one where a block begins."""

    rows: int = LENGTH + 1
    prefill_rows: int = 128
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    config: Any = field(default_factory=lambda: SimpleNamespace(max_context=1 << 30))

    def new_state(self, codec: str = "full") -> TableState:
        return TableState()

    def prefill(self, state: TableState, tokens: Sequence[int], keep: Collection[int] = ()) -> Tensor:
        state.length += len(tokens)
        return torch.zeros(len(tokens), 1)

    def decode(self, state: TableState, tokens: Sequence[int], fault: object = None) -> Rows:
        return Rows(torch.zeros(len(tokens), 1), TABLE[contexts(state.length + 1, tokens)])

    def commit(self, state: TableState, count: int) -> None:
        state.length += count


def contexts(first: int, tokens: Sequence[int]) -> list[int]:
    """What the next token depends on after each of `tokens`; first: position of the token after the first one."""
    starts = [(first + index - len(PROMPT)) % LENGTH == 0 for index in range(len(tokens))]
    return [PROMPT[-1] if start else token for start, token in zip(starts, tokens, strict=True)]


class TableDrafter:
    """Samples from a table that is nearly the model's, with the target's noise; sometimes it guesses."""

    name = "table"

    def __init__(self, params: SamplingParams) -> None:
        self.params, self.known, self.rng = params, list[int](), random.Random(5)

    def begin(self, tokens: Sequence[int]) -> None:
        self.known = list(tokens)

    def extend(self, tokens: Sequence[int], hidden: Tensor | None) -> None:
        self.known = [*self.known[-1:], *tokens][-1:]
        self.length = getattr(self, "length", 1) + len(tokens)

    def truncate(self, length: int) -> None:
        raise AssertionError("nothing is rewound here")

    def feedback(self, drafted: int, accepted: int) -> None: ...

    def propose(self, limit: int) -> list[int]:
        drafts: list[int] = []
        plain = SamplingParams(self.params.temperature, seed=self.params.seed)
        while len(drafts) < min(limit, 3):
            position = self.length + len(drafts)
            at = contexts(position, [*self.known, *drafts][-1:])
            drafts += pick(DRAFTER[at], [position], plain, VOCAB).tolist()
        return drafts


def tokenizer() -> Tokenizer:
    """Twelve one-letter tokens, none of which ends a turn."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={chr(97 + i): i for i in range(VOCAB)}, merges=[]))
    backend.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(backend, frozenset())


def pairs(params: SamplingParams) -> list[list[float]]:
    """Probability of every two neighbours in a block, first * VOCAB + second."""
    result: list[list[float]] = []
    reached = {(): 1.0}
    for _ in range(LENGTH):
        following = {(*h, t): w * p for h, w in reached.items() for t, p in enumerate(target(h, params)) if p}
        sums = [0.0] * VOCAB**2
        for history, weight in following.items():
            if len(history) > 1:
                sums[history[-2] * VOCAB + history[-1]] += weight
        result += [sums] if any(sums) else []
        reached = following
    return result


def p_values(params: SamplingParams, blocks: int) -> tuple[list[float], float]:
    """Chi-square of every position in a block, then of every two neighbours; and the share of accepted drafts."""
    sequence = TokenSequence(TableModel())  # type: ignore[arg-type]
    sequence.drafters = {"table": TableDrafter(params)}
    options = TurnOptions(params, "table", max_tokens=blocks * LENGTH, audit_every=0)
    turn = Turn(sequence, PROMPT, tokenizer(), options)
    for _ in sequence.prefill():
        pass
    drafted = accepted = 0
    while not turn.ended:
        report = turn.step()
        drafted, accepted = drafted + report.drafted, accepted + report.accepted
    said = torch.tensor(turn.generated).view(blocks, LENGTH)
    seen = [said[:, at] for at in range(LENGTH)] + [said[:, at - 1] * VOCAB + said[:, at] for at in range(1, LENGTH)]
    result = []
    for ids, exact in zip(seen, [*marginals(params), *pairs(params)], strict=True):
        counts = torch.bincount(ids, minlength=len(exact)).tolist()
        possible = all(count == 0 for count, p in zip(counts, exact, strict=True) if p == 0)
        result.append(chi_square_p(counts, [p * blocks for p in exact]) if possible else 0.0)
    return result, accepted / drafted


@pytest.mark.parametrize("name", PARAMS)
def test_a_turn_samples_the_target(name: str) -> None:
    found, accepted = p_values(PARAMS[name], BLOCKS)
    assert min(found) > 1e-4
    assert 0.2 < accepted < 0.9


def too_much(ids: list[int], drafts: list[int]) -> int:
    """Every fifth wrong draft is taken for right."""
    for index, draft in enumerate(drafts):
        if ids[index] != draft and (ids[index] + draft + index) % 5:
            return index
    return len(drafts)


def wrong_bonus(logits: Tensor, *arguments: Any) -> Choice:
    """The last row's token comes from the row before it."""
    return choose(torch.cat([logits[:-1], logits[-2:-1] if len(logits) > 1 else logits]), *arguments)


def off_by_one(ids: list[int], drafts: list[int]) -> int:
    """The token after the run comes from a row that saw a rejected draft."""
    return min(accepted_run(ids, drafts) + 1, len(drafts))


def all_of_them(ids: list[int], drafts: list[int]) -> int:
    """Nothing is verified."""
    return len(drafts)


def test_the_check_finds_a_bonus_from_the_wrong_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.turn, "choose", wrong_bonus)
    assert min(p_values(PARAMS["1.0"], BLOCKS)[0]) < FOUND


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", [all_of_them, too_much, off_by_one])
def test_the_check_finds_wrong_acceptance(mutant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.turn, "accepted_run", mutant)
    assert min(p_values(PARAMS["1.0"], 10 * BLOCKS)[0]) < FOUND


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PARAMS)
def test_a_turn_samples_the_target_in_forty_thousand_blocks(name: str) -> None:
    assert min(p_values(PARAMS[name], 40_000)[0]) > 1e-4
