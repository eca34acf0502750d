"""A sequence rebuilds its state as plain decoding would have made it, whatever happened on the way."""

from __future__ import annotations

import random
from collections.abc import Sequence as Tokens
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.deltanet import DeltaNet, LinearState
from engine.drafters.base import Drafter
from engine.errors import ContextOverflow
from engine.faults import Fault
from engine.model import Model
from engine.provenance import Segment
from engine.sequence import Sequence
from engine.shadow import ShadowBudget
from engine.state import SequenceState


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


def ids(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


class Recorder:
    """A drafter that checks the contract: every token once, in order, each with the row before it."""

    name = "recorder"

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.rows: list[Tensor] = []

    def begin(self, tokens: Tokens[int]) -> None:
        self.tokens, self.rows = list(tokens), []

    def extend(self, tokens: Tokens[int], hidden: Tensor | None) -> None:
        assert hidden is not None
        assert len(tokens) == hidden.shape[0]
        self.tokens += tokens
        self.rows += list(hidden)

    def truncate(self, length: int) -> None:
        del self.tokens[length:]
        del self.rows[max(length - 1, 0) :]

    def feedback(self, drafted: int, accepted: int) -> None: ...

    def adopt(self, other: Drafter, tokens: Tokens[int]) -> None:
        assert isinstance(other, Recorder)
        self.tokens, self.rows = list(other.tokens), list(other.rows)
        self.truncate(len(tokens))
        assert self.tokens == tokens

    def propose(self, limit: int) -> list[int]:
        return []


def begun(model: Model, prompt: list[int]) -> tuple[Sequence, Recorder]:
    recorder = Recorder()
    sequence = Sequence(model, {"recorder": recorder})
    sequence.begin(prompt)
    list(sequence.prefill())
    return sequence, recorder


def advance(sequence: Sequence, tokens: list[int], block: int = 1, fault: Fault | None = None) -> None:
    """Commits `tokens`, verified in blocks as drafts would be."""
    for at in range(0, len(tokens), block):
        new = tokens[at : at + block]
        rows = sequence.decode(new[:-1], fault)
        sequence.commit(new, rows.hidden, speculative=len(new) > 1)


def test_the_last_token_stays_pending(model: Model) -> None:
    prompt = ids(150)
    sequence = Sequence(model)
    assert sequence.begin(prompt) == 0
    assert list(sequence.prefill()) == [128, 149]
    assert (sequence.length, sequence.tokens) == (149, prompt)
    assert sequence.provenance == [Segment("prefill", 0, 128), Segment("prefill", 128, 149)]
    advance(sequence, ids(3, 1))
    assert sequence.length == len(sequence.tokens) - 1 == 152
    assert sequence.provenance[-1] == Segment("decode", 149, 152)


@pytest.mark.parametrize("keep", [0, 1, 40, 128, 140, 149, 150, 155, 165, 169])
@pytest.mark.parametrize("trusted", [False, True])
def test_a_rewind_gives_the_state_of_plain_decoding(model: Model, keep: int, trusted: bool) -> None:
    prompt, tokens = ids(150), ids(20, 1)
    plain, _ = begun(model, prompt)
    advance(plain, tokens)
    fast, recorder = begun(model, prompt)
    advance(fast, tokens[:6])
    advance(fast, tokens[6:], block=5)
    assert fast.speculated_from == 155
    fast.rewind(keep, trusted=trusted)
    assert fast.length == keep
    assert fast.tokens == [*prompt, *tokens][: keep + 1]
    assert recorder.tokens == fast.tokens
    assert len(recorder.rows) == keep
    if keep >= 149:
        plain.rewind(keep, trusted=False)
        assert fast.state.fingerprint() == plain.state.fingerprint()
    whole = [*prompt, *tokens]
    rest = whole[keep + 1 :]
    advance(fast, rest)
    assert fast.tokens == whole
    assert recorder.tokens == whole
    if keep >= 149:
        advance(plain, rest)
        assert fast.state.fingerprint() == plain.state.fingerprint()


def test_a_trusted_rewind_cures_what_a_fault_has_damaged(model: Model) -> None:
    prompt, tokens = ids(60), ids(16, 1)
    plain, _ = begun(model, prompt)
    advance(plain, tokens)
    hurt, recorder = begun(model, prompt)
    advance(hurt, tokens[:4])
    advance(hurt, tokens[4:], block=4, fault=Fault.VERIFY_IGNORES_CACHE)
    assert hurt.state.fingerprint() != plain.state.fingerprint()
    hurt.rewind(70, trusted=False)
    plain.rewind(70, trusted=False)
    assert hurt.state.fingerprint() != plain.state.fingerprint()
    rebuilt = hurt.rewind(70, trusted=True)
    assert rebuilt == 70 - 63
    assert hurt.state.fingerprint() == plain.state.fingerprint()
    assert hurt.speculated_from is None
    reference, clean = begun(model, prompt)
    advance(reference, tokens[:11])
    assert all(torch.equal(a, b) for a, b in zip(recorder.rows, clean.rows, strict=True))


def test_a_rewind_that_stays_behind_the_speculation_remembers_it(model: Model) -> None:
    sequence, _ = begun(model, ids(20))
    advance(sequence, ids(12, 1), block=4)
    sequence.rewind(25, trusted=False)
    assert sequence.speculated_from == 19
    sequence.rewind(19, trusted=False)
    assert sequence.speculated_from is None


def test_a_rebuild_in_blocks_is_not_trusted(model: Model) -> None:
    """Rows of a block can hide a fault of the device, also where nothing was ever drafted."""
    sequence, _ = begun(model, ids(20))
    advance(sequence, ids(30, 1))
    sequence.state.log.clear()
    sequence.state.log_start = sequence.length
    assert sequence.rewind(40, trusted=False) == 40 - 19
    assert sequence.speculated_from == 19
    assert sequence.rewind(35, trusted=True) == 35 - 19
    assert sequence.speculated_from is None


@pytest.mark.parametrize("act", ["prefill", "commit", "rewind", "begin"])
def test_what_an_exception_cut_short_is_not_intact(model: Model, act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence, _ = begun(model, ids(20))
    advance(sequence, ids(4, 1))
    if act == "prefill":
        sequence.begin(ids(60))
    if act == "commit":
        sequence.decode()
    assert sequence.intact

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(*FAILING[act], fail)
    with pytest.raises(MemoryError):
        {
            "prefill": lambda: list(sequence.prefill()),
            "commit": lambda: sequence.commit([1], torch.zeros(1, 64), speculative=False),
            "rewind": lambda: sequence.rewind(21, trusted=False),
            "begin": lambda: sequence.begin(ids(10)),
        }[act]()
    assert not sequence.intact


def test_what_is_cut_short_behind_a_change_inside_it_is_not_intact(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild codes the prompt, which is whole again, and then decodes."""
    sequence = Sequence(model, codec="k8v4")
    sequence.shadows = ShadowBudget(1 << 30)
    sequence.state = sequence._new_state()
    sequence.begin(ids(70))
    list(sequence.prefill())
    advance(sequence, ids(4, 1))

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(LinearState, "fold", fail)
    with pytest.raises(MemoryError):
        sequence.rebuild(72)
    assert not sequence.intact


FAILING = {
    "prefill": (DeltaNet, "prefill"),
    "commit": (LinearState, "fold"),
    "rewind": (SequenceState, "rewind"),
    "begin": (SequenceState, "checkpoint"),
}


def test_a_longer_prompt_reuses_the_shared_part(model: Model) -> None:
    sequence, recorder = begun(model, ids(300))
    advance(sequence, ids(10, 1), block=3)
    longer = [*sequence.tokens, *ids(30, 2)]
    assert sequence.begin(longer) == 256
    list(sequence.prefill())
    assert sequence.tokens == longer == recorder.tokens
    other = [*longer[:260], *ids(10, 3)]
    assert sequence.begin(other) == 256
    list(sequence.prefill())
    assert sequence.tokens == other == recorder.tokens


@pytest.mark.parametrize("shared", [1, 63, 64, 65, 127, 128, 130, 192, 200, 255, 256, 290, 299, 300, 305, 309, 310])
@pytest.mark.parametrize("way", ["same", "fork"])
def test_a_prefix_hit_has_the_bits_of_a_cold_start(model: Model, shared: int, way: str) -> None:
    """Wherever the new prompt leaves the old conversation: in its prompt, in its response, right behind it."""
    source, _ = begun(model, ids(300))
    advance(source, ids(10, 1), block=4)
    prompt = [*source.tokens[:shared], *ids(150, 2)]
    cold, _ = begun(model, prompt)
    expected = cold.decode().logits
    mark, tokens = source.state.fingerprint(), list(source.tokens)
    warm, recorder = source, source.drafters["recorder"]
    if way == "fork" and (reused := source.reusable(prompt)):
        recorder = Recorder()
        warm = source.fork(reused, Sequence(model, {"recorder": recorder}))
        assert recorder.tokens == prompt[: reused + 1]
    reused = warm.begin(prompt)
    assert reused <= min(shared, 299)
    assert reused == (256 if shared > 256 else 192 if shared > 192 else 0)
    list(warm.prefill())
    assert warm.state.fingerprint() == cold.state.fingerprint()
    assert torch.equal(warm.decode().logits, expected)
    assert recorder.tokens == prompt
    if warm is not source:
        advance(warm, ids(5, 3))
        assert (source.state.fingerprint(), source.tokens) == (mark, tokens)


def test_what_was_decoded_is_not_taken_for_prefilled(model: Model) -> None:
    """Decoded rows differ from prefilled ones in their last bits, also where a checkpoint lies at a round position."""
    source, _ = begun(model, ids(300))
    advance(source, ids(20, 1))
    assert source.length == 319
    advance(source, ids(1, 2))
    source.state.checkpoint()
    advance(source, ids(10, 3))
    assert source.state.checkpoints[-1].position == 320
    assert source.prefilled == 299
    assert source.reusable([*source.tokens, 1]) == 256


def test_a_marked_position_can_be_branched_off(model: Model) -> None:
    """The end of system prompt and tools: far before the last turn, and not at a round position."""
    prompt = ids(700)
    sequence = Sequence(model)
    sequence.begin(prompt, marks=[330, 5, 9999])
    list(sequence.prefill())
    advance(sequence, ids(5, 1))
    branch = [*prompt[:330], *ids(40, 2)]
    assert sequence.reusable(branch) == 320
    assert Sequence(model).reusable(branch) == 0
    cold = Sequence(model)
    cold.begin(branch)
    list(cold.prefill())
    warm = sequence.fork(320, Sequence(model))
    assert warm.begin(branch, marks=[330]) == 320
    list(warm.prefill())
    assert warm.state.fingerprint() == cold.state.fingerprint()
    assert sequence.rewind(699, trusted=False) == 0  # the start of the turn has its checkpoint


def test_long_prompts_keep_checkpoints_on_the_way(model: Model) -> None:
    sequence, _ = begun(model, ids(900))
    assert sequence.reusable([*ids(700), 3]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.sequence.CHECKPOINT_EVERY", 256)
        sequence, _ = begun(model, ids(900))
    assert sequence.reusable([*ids(700), 3]) == 512


def test_a_prompt_without_a_common_token_starts_anew(model: Model) -> None:
    sequence, recorder = begun(model, [1, *ids(20)])
    advance(sequence, ids(8, 1), block=4)
    assert sequence.begin([2, *ids(20)]) == 0
    assert (sequence.length, sequence.provenance, sequence.speculated_from) == (0, [], None)
    list(sequence.prefill())
    assert recorder.tokens == [2, *ids(20)]


def test_the_same_prompt_again_keeps_one_token_pending(model: Model) -> None:
    for count, reused in ((129, 128), (130, 128), (128, 64)):
        sequence, _ = begun(model, ids(count))
        assert sequence.begin(ids(count)) == reused
        assert list(sequence.prefill()) == ([count - 1] if reused < count - 1 else [])


def test_prompts_and_positions_are_checked(model: Model) -> None:
    sequence, _ = begun(model, ids(10))
    with pytest.raises(ValueError, match="at least one token"):
        sequence.begin([])
    with pytest.raises(ContextOverflow):
        sequence.begin(ids(1024))
    for wrong in (-1, 10):
        with pytest.raises(ValueError, match="cannot rewind"):
            sequence.rewind(wrong, trusted=False)
    assert sequence.length == 9


def poisoned(sequence: Sequence, position: int) -> None:
    """Its checkpoint of a position holds something else."""
    for checkpoint in sequence.state.checkpoints:
        if checkpoint.position == position:
            with torch.inference_mode():
                checkpoint.linear.memory.add_(1.0)


@pytest.mark.parametrize("how", ["rewind", "restore", "rebuild"])
@pytest.mark.parametrize("forked", [False, True])
def test_a_trusted_way_back_refuses_what_an_earlier_turn_has_computed(model: Model, how: str, forked: bool) -> None:
    """A prefix that is wrong is computed again, and nobody takes over what shares rows with it."""
    prompt, next_prompt = ids(150), [*ids(150), *ids(60, 1)]
    first, _ = begun(model, prompt)
    lineage = first.lineage
    poisoned(first, 128)
    sequence = first.fork(128, Sequence(model, {"recorder": Recorder()})) if forked else first
    assert sequence.begin(next_prompt) == sequence.taken_over == 128
    list(sequence.prefill())
    rows = sequence.decode([5])
    sequence.commit([5, 6], rows.hidden[:2], speculative=True)
    cold, _ = begun(model, next_prompt)
    assert sequence.state.fingerprint() != cold.state.fingerprint()
    length = len(next_prompt) - 1
    if how == "rewind":
        assert sequence.rewind(length, trusted=True) == length
    elif how == "restore":
        assert sequence.restore(length, trusted=True) == length
    else:
        assert sequence.rebuild(length) == length
    assert sequence.state.fingerprint() == cold.state.fingerprint()
    assert not lineage.sound
    assert sequence.lineage is not lineage
    assert sequence.lineage.sound
    assert sequence.taken_over == 0
    assert sequence.reusable(next_prompt + ids(9, 2)) > 0
    assert sequence.rewind(length - 1, trusted=True) < length, "computed by this turn, trusted from now on"


def test_a_cold_start_and_an_untrusted_way_back_refuse_nothing(model: Model) -> None:
    first, _ = begun(model, ids(150))
    assert first.taken_over == 0
    rows = first.decode([5])
    first.commit([5, 6], rows.hidden[:2], speculative=True)
    first.rewind(149, trusted=True)
    assert first.lineage.sound
    assert first.begin([*ids(150), *ids(60, 1)]) == 128
    list(first.prefill())
    lineage = first.lineage
    first.rewind(180, trusted=False)
    assert lineage.sound and first.lineage is lineage and first.taken_over == 128
    first.begin(ids(80, 9))
    assert first.lineage is not lineage and first.taken_over == 0
