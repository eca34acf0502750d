"""Invented names: valid, repeatable, and never shared by training and held-out tasks."""

from __future__ import annotations

import random
from keyword import iskeyword

from examples.embedded_model.names import LETTERED_SHARE, NOUNS, invented, is_held_out, lettered, pick, readings


def draw(count: int, held_out: bool, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [pick(rng, held_out, set()) for _ in range(count)]


def test_no_name_is_of_both_splits() -> None:
    training, held_out = set(draw(5_000, False)), set(draw(5_000, True, seed=1))
    assert len(held_out) > 2_000
    assert not training & held_out


def test_a_name_ending_in_s_may_come_from_two_stems() -> None:
    assert readings("prices") == ["price"]
    assert set(readings("talis")) == {"talis", "tali"}
    assert readings("bag_b") == []


def test_a_held_out_name_has_no_reading_that_training_could_make() -> None:
    for name in draw(1_500, True):
        assert all(map(is_held_out, readings(name)))
    for name in draw(1_500, False):
        assert "_" in name or not readings(name) or not all(map(is_held_out, readings(name)))


def test_about_one_noun_in_six_is_held_out() -> None:
    assert 0.08 < sum(map(is_held_out, NOUNS)) / len(NOUNS) < 0.28


def test_names_are_repeatable_and_usable() -> None:
    names = draw(3_000, False)
    assert names == draw(3_000, False)
    assert names != draw(3_000, False, seed=2)
    assert all(name.isidentifier() and name.islower() and not iskeyword(name) for name in names)


def test_a_taken_name_is_not_given_again() -> None:
    rng, taken = random.Random(3), {"price"}
    names = [pick(rng, False, taken, invented_share=0.0) for _ in range(150)]
    assert len(set(names)) == 150
    assert taken == {"price", *names}


def test_the_shares_are_kept() -> None:
    rng, nouns = random.Random(4), {noun.removesuffix("s") for noun in NOUNS}
    held_out = [pick(rng, True, set(), 0.0) for _ in range(300)]
    assert all(name.split("_")[0].removesuffix("s") in nouns for name in held_out)
    training = [pick(rng, False, set(), 0.0) for _ in range(1_000)]
    others = sum(name.split("_")[0].removesuffix("s") not in nouns for name in training)
    assert abs(others / 1_000 - LETTERED_SHARE) < 0.05
    assert sum(invented(rng) in NOUNS for _ in range(300)) < 5


def test_names_of_any_letters_are_no_names_of_python() -> None:
    assert {"int", "set", "for"} & {lettered(random.Random(seed)) for seed in range(20_000)}
    assert not {"int", "set", "for"} & set(draw(20_000, False))
