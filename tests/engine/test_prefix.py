"""Which kept sequence a prompt gets, that none is lent twice, and that nothing kept is lost to a fork."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.model import Model
from engine.prefix import PrefixStore
from engine.sequence import Sequence


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


def ids(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


def run(sequence: Sequence, prompt: list[int], marks: tuple[int, ...] = ()) -> int:
    """A whole turn: prompt, prefill, three tokens. Returns the reused positions."""
    reused = sequence.begin(prompt, marks)
    list(sequence.prefill())
    for token in (1, 2, 3):
        rows = sequence.decode()
        sequence.commit([token], rows.hidden, speculative=False)
    return reused


def store(model: Model, *kept: list[int], capacity: int = 4) -> tuple[PrefixStore, list[Sequence]]:
    prefixes = PrefixStore(lambda: Sequence(model), capacity)
    sequences = []
    for tokens in kept:
        sequence = Sequence(model)
        run(sequence, tokens)
        prefixes.put(sequence)
        sequences.append(sequence)
    return prefixes, sequences


def test_the_next_request_of_a_conversation_gets_its_sequence(model: Model) -> None:
    prefixes, (kept,) = store(model, ids(200))
    follow = [*kept.tokens, *ids(40, 1)]
    assert prefixes.take(follow) is kept
    assert len(prefixes) == 0
    assert run(kept, follow) == 192


def test_the_longest_prefix_wins(model: Model) -> None:
    prefixes, (_, b) = store(model, ids(200), [*ids(200), *ids(150, 1)])
    assert prefixes.take([*b.tokens, 7]) is b


def test_a_branch_forks_and_leaves_the_kept_context_alone(model: Model) -> None:
    """Two agents behind one system prompt: the second must not destroy the first one's context."""
    system = ids(150)
    first = Sequence(model)
    prefixes = PrefixStore(lambda: Sequence(model), 4)
    run(first, [*system, *ids(300, 1)], marks=(150,))
    prefixes.put(first)
    mark = first.state.fingerprint()
    second = prefixes.take([*system, *ids(60, 2)])
    assert second is not first
    assert run(second, [*system, *ids(60, 2)]) == 128
    assert first.state.fingerprint() == mark
    assert prefixes.take([*first.tokens, 5]) is first


def test_a_sequence_in_use_is_forked_too(model: Model) -> None:
    """Several agents that start at once on one prompt: the later ones do not prefill it again."""
    prefixes, _ = store(model)
    prompt = ids(300)
    first = prefixes.take(prompt)
    run(first, prompt)
    others = [prefixes.take([*prompt[:290], i]) for i in range(3)]
    assert len({id(s) for s in (first, *others)}) == 4
    assert [run(s, [*prompt[:290], i]) for i, s in enumerate(others)] == [256] * 3


def test_what_an_exception_left_half_changed_is_never_a_source(model: Model) -> None:
    prefixes, _ = store(model)
    prompt = ids(300)
    broken = prefixes.take(prompt)
    run(broken, prompt)
    broken.intact = False
    assert prefixes.take(prompt).length == 0
    prefixes.drop(broken)
    assert prefixes.take(prompt).length == 0


def test_an_unrelated_prompt_gets_a_new_sequence(model: Model) -> None:
    prefixes, (kept,) = store(model, ids(200))
    assert prefixes.take([*ids(60), *ids(100, 1)]).tokens == []
    assert len(prefixes) == 1
    assert prefixes.take([*kept.tokens, 1]) is kept


def test_the_least_recently_used_one_is_dropped(model: Model) -> None:
    prompts = [[i] * 100 for i in range(3)]
    prefixes, (_, b, c) = store(model, *prompts, capacity=2)
    assert prefixes.take([*prompts[0], 0]).length == 0
    assert prefixes.take([*prompts[1], 0]) is b
    prefixes.put(b)
    other = Sequence(model)
    run(other, [9] * 100)
    prefixes.put(other)
    assert prefixes.take([*prompts[2], 0]) is not c
    assert prefixes.take([*prompts[1], 0]) is b


def test_bytes_are_bounded(model: Model) -> None:
    sequences = []
    for seed in range(3):
        sequence = Sequence(model)
        run(sequence, ids(200, seed))
        sequences.append(sequence)
    size = sequences[0].state.nbytes
    prefixes = PrefixStore(lambda: Sequence(model), 8, max_bytes=2 * size + size // 2)
    for sequence in sequences:
        prefixes.put(sequence)
    assert len(prefixes) == 2
    assert prefixes.nbytes <= 2 * size + size // 2
    assert prefixes.take([*sequences[2].tokens, 1]) is sequences[2]
    with pytest.raises(ValueError, match="max_bytes"):
        PrefixStore(lambda: Sequence(model), 1, max_bytes=-1)


def test_without_capacity_nothing_is_kept(model: Model) -> None:
    prefixes, _ = store(model, ids(100), capacity=0)
    assert len(prefixes) == 0
    with pytest.raises(ValueError, match="capacity"):
        PrefixStore(lambda: Sequence(model), -1)


def test_what_is_found_damaged_is_neither_kept_nor_reused(model: Model) -> None:
    prefixes, (first, second) = store(model, ids(200), ids(200, 1))
    lent = prefixes.take([*first.tokens, 1])
    lent.sound = False
    assert prefixes.take([*first.tokens, 1]).tokens == [], "not even forked from while it is lent"
    prefixes.put(lent)
    assert prefixes.take([*first.tokens, 1]).tokens == []
    assert prefixes.take([*second.tokens, 1]) is second


def test_with_a_damaged_cache_goes_all_that_its_codec_has_written(model: Model) -> None:
    prefixes, (full, lent) = store(model, ids(200), ids(200, 1))
    for seed in (2, 3):
        coded = prefixes.take(ids(200, seed), "k4v4")
        run(coded, ids(200, seed))
        prefixes.put(coded)
    running = prefixes.take([*ids(200, 2), 1], "k4v4")
    assert prefixes.take([*lent.tokens, 1]) is lent
    assert prefixes.distrust("k4v4") == 2
    assert not running.sound
    assert lent.sound
    assert len(prefixes) == 1
    assert prefixes.take([*ids(200, 3), 1], "k4v4").tokens == []
    assert prefixes.take([*full.tokens, 1]) is full


def test_clear(model: Model) -> None:
    prefixes, _ = store(model, ids(100))
    prefixes.clear()
    assert (len(prefixes), prefixes.nbytes) == (0, 0)


def test_a_kept_sequence_holds_no_log_and_a_dropped_one_is_gone(model: Model) -> None:
    """Logged rows are copies (a view would keep other sequences' rows alive), and end with the turn."""
    prefixes, (kept,) = store(model, ids(100))
    assert kept.state.log == []
    sequence = Sequence(model)
    run(sequence, ids(100))
    part = sequence.state.log[0]
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in (part.conv, part.k, part.u, part.decay))
    assert len(prefixes) == 1


def test_a_refused_lineage_is_neither_lent_nor_kept(model: Model) -> None:
    prefixes, (kept, other) = store(model, ids(200), ids(200, 5))
    follow = [*ids(200), *ids(40, 1)]
    branch = prefixes.take([*ids(150), *ids(40, 2)])
    assert branch is not kept and branch.lineage is kept.lineage
    branch.begin([*ids(150), *ids(40, 2)])
    list(branch.prefill())
    branch.rewind(150, trusted=True)
    fresh = prefixes.take(follow)
    assert fresh is not kept and fresh.begin(follow) <= 150 // 64 * 64
    assert len(prefixes) == 1, "the other conversation stays"
    assert prefixes.take([*other.tokens, 3]) is other


def test_a_running_sequence_of_a_refused_lineage_is_not_taken_back(model: Model) -> None:
    prefixes, (kept,) = store(model, ids(200))
    follow = [*kept.tokens, *ids(40, 1)]
    running = prefixes.take(follow)
    running.begin(follow)
    running.lineage.sound = False
    prefixes.put(running)
    assert len(prefixes) == 0
