"""Near-repeats: what they count, what they leave alone, where they say it began."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from detectors.finding import Grade
from detectors.near_repeat import NearRepeat, NearThresholds


def feed(detector: NearRepeat, tokens: Iterable[int], symbol: bool = False) -> dict[Grade | None, int]:
    """The first index of each grade."""
    first: dict[Grade | None, int] = {}
    for index, token in enumerate(tokens):
        first.setdefault(detector.push(index, token, symbol), index)
    return first


def words(count: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(1, 200_000) for _ in range(count)]


def mutated(unit: list[int], copies: int, share: float, seed: int = 1) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(200_000) if draw.random() < share else token for _ in range(copies) for token in unit]


def test_a_mutated_loop_is_found_and_its_beginning_with_it() -> None:
    detector, unit = NearRepeat(), words(40, 2)
    stream = words(300, 3) + mutated(unit, 30, 0.03)
    first = feed(detector, stream)
    assert 300 < first[Grade.FALLBACK] < 300 + 600
    detector.reset()
    for index, token in enumerate(stream):
        if detector.push(index, token, False) is Grade.FALLBACK:
            break
    found = detector.finding("text", index)
    assert (found.detector, found.grade, found.channel) == ("loop.near", Grade.FALLBACK, "text")
    assert 300 + 20 <= found.began <= 300 + 80  # about one copy stays
    assert 36 <= found.evidence["gap"] <= 44


def test_brute_force_counts_the_same() -> None:
    """Both counts straight from their definition, on text with much repetition."""
    chosen = NearThresholds()
    draw, stream = random.Random(5), list[int]()
    pool = [words(n, n) for n in (5, 30, 90, 300)]
    while len(stream) < 9000:
        stream += draw.choice(pool) if draw.random() < 0.6 else words(draw.randrange(60), len(stream))
    detector = NearRepeat(chosen)
    at: dict[tuple[int, ...], list[int]] = {}
    short, long = [False] * len(stream), [False] * len(stream)
    for i, token in enumerate(stream):
        detector.push(i, token, False)
        seen = at.setdefault(tuple(stream[max(0, i - 3) : i + 1]), [])
        chain = [i]
        for before in reversed(seen):
            if chain[-1] - before > chosen.horizon or len(chain) == 4:
                break
            chain.append(before)
        seen.append(i)
        four = len(chain) == 4 and chain[0] - chain[3] <= chosen.horizon
        far = len(chain) >= 3 and chain[0] - chain[1] >= chosen.far
        far = far and min(chain[0] - chain[1], chain[1] - chain[2]) <= 2 * chosen.far
        # Four in a chain that is too long as a whole count as neither, as the chain's third gap is known.
        span = chain[0] - chain[-1]
        long[i] = len(chain) >= 3 and span <= chosen.horizon and (four or far)
        short[i] = len(chain) == 4 and span <= chosen.reach
        assert detector._short == sum(short[max(0, i + 1 - chosen.short_window) : i + 1]), i
        assert detector._long == sum(long[max(0, i + 1 - chosen.long_window) : i + 1]), i


def test_quoting_and_rewriting_are_no_loop() -> None:
    file = words(700, 7)
    assert set(feed(NearRepeat(), file + words(50, 8) + file + words(50, 9) + file)) == {None}


def test_alternating_units_are_found() -> None:
    draw, units = random.Random(3), (words(40, 1), words(40, 2))
    first = feed(NearRepeat(), [token for _ in range(40) for token in draw.choice(units)])
    assert first[Grade.FALLBACK] < 700


def test_it_ends_with_the_loop_and_is_graver_when_it_lasts() -> None:
    detector, unit = NearRepeat(), words(40, 2)
    first = feed(detector, mutated(unit, 80, 0.03))
    assert first[Grade.ABORT] - first[Grade.FALLBACK] >= NearThresholds().abort_after
    feed(detector, words(400, 4))
    assert detector.grade is None


def test_code_without_a_fence_is_left_alone() -> None:
    assert set(feed(NearRepeat(), mutated(words(40, 2), 30, 0.03), symbol=True)) == {None}


def test_what_came_before_a_loop_may_be_code() -> None:
    detector = NearRepeat()
    feed(detector, words(400, 1), symbol=True)
    feed(detector, words(100, 2))
    assert detector.is_code_before(100)
    assert detector.is_code_before(430)
    assert not detector.is_code_before(440)  # too little is known
    detector.reset()
    feed(detector, words(500, 2))
    assert not detector.is_code_before(100)


def scattered(unit: list[int], copies: int, count: int) -> list[int]:
    """Each copy has so many new words, anywhere."""
    draw, tokens = random.Random(7), list[int]()
    for _ in range(copies):
        places = set(draw.sample(range(len(unit)), count))
        tokens += [draw.randrange(200_000) if i in places else token for i, token in enumerate(unit)]
    return tokens


@pytest.mark.parametrize("period", [300, 340, 400])
def test_a_long_unit_that_is_filled_in_is_a_collection(period: int) -> None:
    """As many new words as a loop has that is found: only where they stand differs."""
    unit, new = words(period, 2), 8
    filled = [token for copy in range(6) for token in (*words(new, 100 + copy), *unit)]
    told = feed(NearRepeat(), words(100, 3) + filled)
    assert Grade.SUSPECT in told and Grade.FALLBACK not in told
    assert feed(NearRepeat(), words(100, 3) + scattered(unit, 6, new))[Grade.FALLBACK] < 100 + 5 * period
    assert feed(NearRepeat(), words(100, 3) + unit * 6)[Grade.FALLBACK] < 100 + 4 * period


def test_nobody_collects_for_ever() -> None:
    """A form that is filled in again and again, and a loop that changes one name: the same thing at this length."""
    filled = [token for copy in range(30) for token in (*words(8, 100 + copy), *words(320, 2))]
    told = feed(NearRepeat(), filled)
    assert 4096 + 3 * 328 <= told[Grade.FALLBACK] <= 4096 + 5 * 328


def test_a_short_unit_that_is_filled_in_is_a_loop_all_the_same() -> None:
    filled = [token for copy in range(20) for token in (*words(2, 100 + copy), *words(60, 2))]
    assert feed(NearRepeat(), words(100, 3) + filled)[Grade.FALLBACK] < 100 + 8 * 62


def test_a_collection_may_turn_into_a_loop() -> None:
    unit = words(320, 2)
    filled = [token for copy in range(4) for token in (*words(10, 100 + copy), *unit)]
    told = feed(NearRepeat(), filled + unit * 4)
    assert len(filled) < told[Grade.FALLBACK] < len(filled) + 3 * 320


def test_what_is_filled_in_counts_as_defined() -> None:
    """Against the definition, on streams of every kind."""
    draw = random.Random(9)
    for seed in range(12):
        unit, stream = words(draw.randrange(80, 420), seed), words(50, 99)
        for copy in range(6):
            head = words(draw.randrange(12), 1000 + copy) if seed % 2 else []
            stream += [*head, *mutated(unit, 1, 0.02 if seed % 3 else 0.0, copy)]
        stream = stream[:2000]
        detector = NearRepeat()
        feed(detector, stream)
        grams = [tuple(stream[max(0, i - 3) : i + 1]) for i in range(len(stream))]
        last, before = dict[tuple[int, ...], int](), list[int | None]()
        for i, gram in enumerate(grams):
            before.append(last.get(gram))
            last[gram] = i
        new = filled = run = 0
        for at in range(len(stream) - 512, len(stream)):
            earlier = before[at]
            if earlier is None:
                run += 1
                continue
            if run and before[earlier] is not None:
                new += run
                there = [before[i] is None for i in range(max(0, earlier - run - 3), earlier)]
                filled += run if sum(there) >= min(run, 4) else 0
            run = 0
        assert detector._filled() == (new, filled), seed


def test_memory_is_bounded() -> None:
    detector = NearRepeat()
    feed(detector, words(20_000, 1))
    feed(detector, [(i << 15) & 0xFFFFF for i in range(20_000)])  # low bits alike: the key keeps few of them
    assert len(detector._new) + len(detector._old) <= 2 * (NearThresholds().horizon + 1)
    assert len(detector._marks) == len(detector._positions) == NearThresholds().horizon


@pytest.mark.parametrize(
    "wrong",
    [
        {"horizon": 2000},
        {"horizon": 4096},
        {"short_suspect": 0.9},
        {"long_fallback": 1.1},
        {"short_window": 8},
        {"short_window": 4096},
        {"reach": 2049},
        {"far": 10**9},
        {"slots": 0},
        {"collection": 0},
        {"filled": 0.0},
        {"known": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"horizon|shares|or more"):
        NearThresholds(**wrong)  # type: ignore[arg-type]
