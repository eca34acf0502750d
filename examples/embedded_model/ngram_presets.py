"""Measures n-gram settings on the text of generated repair conversations: where the engine's presets come from.

    python -m examples.embedded_model.ngram_presets [--conversations 40] [--mtp 0.8]

Must not: load a model. The assistant's reference text is what plain decoding would say, the engine's own drafters and
pacer draft it. Invariant: held-out tasks from fixed seeds, so the same command prints the same figures.
Columns: tokens per step; gain over plain decoding, drafting and rows paid for; steps that the n-grams drafted; of
these, steps in which nothing was accepted. With --mtp P the third drafter is a simulated head whose every draft is
right with probability P, at the cost ratios of engine.pacing.TYPICAL.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass

from engine.drafters.ngram import HINT, NgramDrafter, NgramParams
from engine.engine import EMBEDDED
from engine.pacing import TYPICAL, Pacer
from engine.tokenizer import Tokenizer
from examples.embedded_model.episodes import ASSISTANT, TURN_END, make_episode, render
from examples.embedded_model.tasks import make_task

WIDTH = 7
"""Drafts that a step of eight rows verifies."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """ids: all tokens; turns: begin and end of what the assistant wrote."""

    ids: list[int]
    turns: list[tuple[int, int]]


@dataclass(slots=True)
class Tally:
    tokens: int = 0
    steps: int = 0
    milliseconds: float = 0.0
    drafted: int = 0
    fruitless: int = 0

    def row(self) -> str:
        gain = self.tokens / self.milliseconds * TYPICAL.step_ms
        share = self.drafted / self.steps
        return f"{self.tokens / self.steps:8.2f}{gain:8.2f}{share:8.2f}{self.fruitless / max(self.drafted, 1):8.2f}"


def conversation(seed: int, tokenizer: Tokenizer) -> Conversation:
    text = render(make_episode(make_task(seed, held_out=True), random.Random(seed)).messages)
    ids: list[int] = []
    turns: list[tuple[int, int]] = []
    at = 0
    while (begin := text.find(ASSISTANT, at)) >= 0:
        begin += len(ASSISTANT)
        end = text.index(TURN_END, begin) + len(TURN_END)
        ids += tokenizer.encode(text[at:begin])
        start = len(ids)
        ids += tokenizer.encode(text[begin:end])
        turns.append((start, len(ids)))
        at = end
    return Conversation(ids, turns)


def measure(talks: Sequence[Conversation], tiers: Sequence[NgramParams], mtp: float | None = None) -> Tally:
    """Drafts as engine.turn does: the first tier that matches; the last of several is a mere hint beside a head."""
    tally, rng = Tally(), random.Random(0)
    for talk in talks:
        pacer, drafters = Pacer(TYPICAL), [NgramDrafter(params) for params in tiers]
        known = 0
        for begin, end in talk.turns:
            for drafter in drafters:
                drafter.extend(talk.ids[known:begin], None)
            known = begin
            while known < end:
                new = _step(talk.ids[known:end], known, drafters, pacer, mtp, rng, tally)
                for drafter in drafters:
                    drafter.extend(talk.ids[known : known + new], None)
                known += new
    return tally


def _step(
    truth: list[int],
    at: int,
    drafters: list[NgramDrafter],
    pacer: Pacer,
    mtp: float | None,
    rng: random.Random,
    tally: Tally,
) -> int:
    limit, tier, drafts = min(WIDTH, len(truth) - 1), 0, list[int]()
    for tier, drafter in enumerate(drafters):
        length = pacer.length(f"ngram{tier}", limit, at)
        drafts = drafter.propose(length) if length else []
        if drafts:
            break
    source, accepted = f"ngram{tier}", agreeing(drafts, truth)
    length = pacer.length("mtp", limit, at) if mtp is not None else 0
    hint = 0 < tier == len(drafters) - 1
    if mtp is not None and length and (not drafts or (hint and _less(pacer, source, len(drafts), length))):
        unused, right, drafts, source, accepted = drafts, accepted, truth[:length], "mtp", 0
        while accepted < length and rng.random() < mtp:
            accepted += 1
        pacer.feedback(f"ngram{tier}", min(len(unused), accepted + 1), min(right, accepted + 1))
    if drafts:
        pacer.feedback(source, len(drafts), accepted)
        if source != "mtp":
            drafters[tier].feedback(len(drafts), accepted)
            tally.drafted += 1
            tally.fruitless += not accepted
    tally.steps += 1
    tally.tokens += accepted + 1
    tally.milliseconds += TYPICAL.step_with(source, len(drafts))
    return accepted + 1


def _less(pacer: Pacer, source: str, drafted: int, length: int) -> bool:
    return pacer.gain(source, drafted) < pacer.gain("mtp", length)


def agreeing(drafts: list[int], truth: list[int]) -> int:
    return next((i for i, token in enumerate(drafts) if token != truth[i]), len(drafts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--conversations", type=int, default=40)
    parser.add_argument("--mtp", type=float, help="probability that a simulated head's draft is right (default: none)")
    options = parser.parse_args()
    tokenizer = Tokenizer.load(EMBEDDED)
    talks = [conversation(seed, tokenizer) for seed in range(options.conversations)]
    tokens = sum(end - begin for talk in talks for begin, end in talk.turns)
    print(f"{len(talks)} conversations, {tokens} generated tokens, simulated head: {options.mtp or 'none'}")
    print(f"{'n_match/n_min/n_max':22}{'tok/step':>8}{'gain':>8}{'drafted':>8}{'in vain':>8}")
    for n_match in (2, 3, 4, 6, 8, 12, 24):
        for n_min, n_max in ((2, 16), (48, 64)):
            alone = NgramParams(n_match, n_min, n_max)
            print(f"{f'{n_match}/{n_min}/{n_max}':22}{measure(talks, [alone], options.mtp).row()}")
    for n_match in (6, 8, 12):
        pair = [NgramParams(n_match, 2, 16), HINT]
        print(f"{f'{n_match}/2/16 then {HINT.n_match}/2/16':22}{measure(talks, pair, options.mtp).row()}")


if __name__ == "__main__":
    main()
