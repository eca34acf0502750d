"""Which layer the runs convict: worlds with one fault each, and how few runs it takes to find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product

import pytest

from policies.axes import (
    AXES,
    BASELINE,
    AxesVerdict,
    Case,
    Seen,
    Setup,
    axis_of,
    conclude,
    first_difference,
    judge,
    rows,
)
from policies.blame import Culprit
from policies.modes import PLAIN, DecodeMode

SOUND = (1, 2, 3, 4, 5, 6, 7, 8)
LOOP = (1, 2, 9, 9, 9, 9, 9, 9)
FAST = Setup(DecodeMode("mtp+ngram"))
EVERYTHING = Setup(DecodeMode("mtp+ngram", "k4v4"), cached=True, filtered=True)
CLEAN = ((2, 0.0),)
World = Callable[[Setup], Seen]


def case(setup: Setup = EVERYTHING, detector: str = "loop.period", **changes: object) -> Case:
    return replace(Case(detector, 6, setup, LOOP), **changes)  # type: ignore[arg-type]


def world(trouble: Callable[[Setup], bool], **changes: object) -> World:
    """Runs loop where there is trouble, and are sound elsewhere. changes: to those that are in trouble."""

    def run(setup: Setup) -> Seen:
        if trouble(setup):
            return replace(Seen(LOOP, recurs=True, kls=CLEAN), **changes)  # type: ignore[arg-type]
        return Seen(SOUND, kls=CLEAN)

    return run


def investigate(given: Case, run: World, axes: tuple[str, ...] = ()) -> tuple[AxesVerdict, dict[Setup, Seen]]:
    runs: dict[Setup, Seen] = {}
    while isinstance(step := judge(given, runs, axes), Setup):  # type: ignore[arg-type]
        assert step not in runs
        runs[step] = run(step)
    return step, runs


def blamed(given: Case, run: World) -> tuple[Culprit | None, str, int]:
    verdict, runs = investigate(given, run)
    assert verdict.note
    return verdict.culprit, verdict.certainty, len(runs)


def test_the_model_is_known_after_one_run() -> None:
    assert blamed(case(), world(lambda setup: True)) == (Culprit.MODEL, "certain", 1)
    assert blamed(case(FAST), world(lambda setup: True)) == (Culprit.MODEL, "certain", 1)


def test_without_a_look_at_its_cache_the_model_is_not_certain() -> None:
    assert blamed(case(), world(lambda setup: True, kls=())) == (Culprit.MODEL, "likely", 1)
    assert blamed(case(exact=False), world(lambda setup: True)) == (Culprit.MODEL, "likely", 1)


def test_behind_forced_tokens_the_model_is_not_certain() -> None:
    verdict, _ = investigate(case(), world(lambda setup: True, forced=2))
    assert (verdict.culprit, verdict.certainty) == (Culprit.MODEL, "likely")
    assert verdict.note.startswith("behind the first 2 tokens, which were taken as they were")


def test_drafts_are_not_to_blame_for_a_kept_prefix_that_went_between_two_runs() -> None:
    setup = Setup(DecodeMode("mtp+ngram"), cached=True)

    def evicted(poisoned: bool) -> World:
        def run(asked: Setup) -> Seen:
            prefix = "cold" if not asked.cached else "kept" if asked == setup else "made"
            bad = prefix == "kept" if poisoned else asked.mode.speculates
            return Seen(LOOP if bad else SOUND, recurs=bad, kls=CLEAN, prefix=prefix)  # type: ignore[arg-type]

        return run

    assert blamed(case(setup), evicted(poisoned=True)) == (Culprit.PREFIX, "certain", 4)
    assert blamed(case(setup), evicted(poisoned=False)) == (Culprit.SPECULATION, "likely", 4)


def test_each_layer_is_found_in_a_server_that_uses_all() -> None:
    assert blamed(case(), world(lambda s: s.mode.speculates)) == (Culprit.SPECULATION, "certain", 3)
    assert blamed(case(), world(lambda s: s.cached)) == (Culprit.PREFIX, "certain", 4)
    assert blamed(case(), world(lambda s: s.filtered, replaced=3)) == (Culprit.FILTER, "certain", 5)
    assert blamed(case(), world(lambda s: s.mode.codec != "full")) == (Culprit.KV, "likely", 6)


def test_where_one_thing_alone_can_be_changed_two_runs_suffice() -> None:
    alone = {
        Culprit.SPECULATION: FAST,
        Culprit.PREFIX: Setup(PLAIN, cached=True),
        Culprit.FILTER: Setup(PLAIN, filtered=True),
        Culprit.KV: Setup(DecodeMode("none", "k4v4")),
    }
    for culprit, setup in alone.items():
        found = blamed(case(setup), world(lambda s: s != BASELINE, replaced=1))
        assert (found[0], found[2]) == (culprit, 2)


def test_a_cache_that_is_wrong_in_plain_decoding_is_not_the_model() -> None:
    assert blamed(case(FAST), world(lambda s: True, dirty=True)) == (Culprit.KV, "certain", 1)
    given = case(FAST, "drift.shadow")
    assert blamed(given, world(lambda s: True, dirty=True)) == (Culprit.KV, "certain", 1)
    # bits differ by right on a device that does not repeat them
    assert blamed(case(FAST, exact=False), world(lambda s: True, dirty=True))[0] is Culprit.MODEL


def test_numbers_that_are_none_in_every_mode_are_likely_the_models() -> None:
    assert blamed(case(detector="drift.nonfinite"), world(lambda s: True)) == (Culprit.MODEL, "likely", 1)


def test_a_fault_that_does_not_strike_again_blames_nobody() -> None:
    verdict, runs = investigate(case(), world(lambda s: False))
    assert (verdict.culprit, verdict.certainty) == (None, "none")
    assert "not reproduced" in verdict.note
    assert EVERYTHING in runs and EVERYTHING.without("codec") not in runs
    assert "prefix as it was kept then" in verdict.note
    verdict, _ = investigate(case(FAST), world(lambda s: False))
    assert "prefix" not in verdict.note


def test_drafts_that_change_the_text_are_proven_even_if_the_trouble_stays_away() -> None:
    def run(setup: Setup) -> Seen:
        return Seen((1, 2, 77) if setup.mode.speculates else SOUND)

    assert blamed(case(), run) == (Culprit.SPECULATION, "likely", 3)


def test_a_false_alarm_in_a_sound_engine_blames_no_layer() -> None:
    """The detector speaks only where there are drafts, yet all say the same."""
    given = case(FAST, "drift.accepted", said=SOUND)
    verdict, _ = investigate(given, lambda s: Seen(SOUND, recurs=s.mode.speculates))
    assert (verdict.culprit, verdict.certainty) == (Culprit.UNKNOWN, "none")


def test_bits_that_differ_convict_before_tokens_do() -> None:
    given = case(FAST, "drift.shadow", said=SOUND)
    found = blamed(given, lambda s: Seen(SOUND, recurs=s.mode.speculates, dirty=s.mode.speculates, kls=CLEAN))
    assert found == (Culprit.SPECULATION, "certain", 2)


def test_the_same_words_are_the_same_trouble_though_no_detector_speaks() -> None:
    assert blamed(case(FAST), lambda s: Seen(LOOP, kls=CLEAN)) == (Culprit.MODEL, "certain", 1)
    shorter = case(FAST, said=LOOP[:3])  # not known up to where it was found
    assert blamed(shorter, lambda s: Seen(LOOP, kls=CLEAN))[0] is None


def test_what_only_all_changes_cure_has_no_single_culprit() -> None:
    verdict, runs = investigate(case(), world(lambda s: s != BASELINE))
    assert verdict.culprit is Culprit.UNKNOWN and "together" in verdict.note
    assert len(runs) == 6


def test_what_several_changes_cure_has_no_single_culprit() -> None:
    both = world(lambda s: s.filtered and s.mode.codec != "full")  # nothing was replaced, so neither is proven
    verdict, _ = investigate(case(), both)
    assert verdict.culprit is Culprit.UNKNOWN
    assert "the filter on tokens" in verdict.note and "the KV codec" in verdict.note


def test_an_inexact_backend_never_makes_anything_certain() -> None:
    for trouble in (lambda s: s.mode.speculates, lambda s: s.cached, lambda s: s.mode.codec != "full"):
        assert blamed(case(exact=False), world(trouble))[1] == "likely"


def audited(setup: Setup, mismatch: Callable[[Setup], bool], kl: Callable[[Setup], float] = lambda s: 0.01) -> object:
    given = case(setup, "drift.audit")
    return blamed(given, lambda s: Seen(SOUND, recurs=mismatch(s), mismatch=mismatch(s), kls=((2, kl(s)),)))


def test_a_mismatch_convicts_speculation() -> None:
    assert audited(FAST, lambda s: s.mode.speculates) == (Culprit.SPECULATION, "certain", 1)
    assert audited(FAST, lambda s: False) == (Culprit.SPECULATION, "certain", 1)
    assert audited(EVERYTHING, lambda s: s.mode.speculates) == (Culprit.SPECULATION, "certain", 2)


def test_a_mismatch_with_codes_alone_is_that_kernels_which_is_farther_from_the_truth() -> None:
    def with_codes(setup: Setup) -> bool:
        return setup.mode.speculates and setup.mode.codec != "full"

    single_rows = audited(EVERYTHING, with_codes, lambda s: 0.02 if s.mode.speculates else 2.0)
    assert single_rows == (Culprit.KV, "likely", 3)
    verify = audited(EVERYTHING, with_codes, lambda s: 2.0 if s.mode.speculates else 0.02)
    assert verify == (Culprit.SPECULATION, "certain", 3)


def test_a_mismatch_in_a_rerun_convicts_whatever_was_found_first() -> None:
    run = world(lambda s: s.mode.speculates, mismatch=True)
    assert blamed(case(FAST), run) == (Culprit.SPECULATION, "certain", 2)


def test_a_prefix_that_is_not_what_its_prompt_gives_convicts_itself() -> None:
    run = world(lambda s: s.cached, foreign=True)
    assert blamed(case(), run) == (Culprit.PREFIX, "certain", 2)  # two runs in place of four
    given = case(detector="drift.prefix")
    assert blamed(given, run) == blamed(given, world(lambda s: False)) == (Culprit.PREFIX, "certain", 1)


@pytest.mark.parametrize("axes", [("codec",), ("draft", "filter"), AXES])
def test_axes_that_are_asked_for_are_run_all(axes: tuple[str, ...]) -> None:
    verdict, runs = investigate(case(), world(lambda s: s.mode.speculates), axes)
    assert {"none", "all", *axes} <= {axis_of(case(), setup) for setup in runs}
    assert verdict.culprit is Culprit.SPECULATION


def test_the_verdict_does_not_depend_on_the_order_of_the_runs() -> None:
    for trouble in (lambda s: s.cached, lambda s: s.filtered, lambda s: s.mode.codec != "full", lambda s: True):
        verdict, runs = investigate(case(), world(trouble, replaced=1), AXES)
        for order in list(permutations(runs.items()))[::50]:
            assert judge(case(), dict(order), AXES) == verdict


def test_every_setup_of_any_case_comes_to_a_verdict() -> None:
    """Whatever the runs show: no run is asked for twice, and a layer is named only if it was in use."""
    layers = {Culprit.SPECULATION: "draft", Culprit.PREFIX: "prefix", Culprit.FILTER: "filter"}
    shapes = [LOOP, SOUND]
    for drafter, codec, cached, filtered in product(("none", "mtp"), ("full", "k4v4"), (False, True), (False, True)):
        setup = Setup(DecodeMode(drafter, codec), cached, filtered)
        for bits in range(2**6):
            given = case(setup)
            seen = iter([bits >> at & 1 for at in range(6)])

            def run(_: Setup) -> Seen:
                bad = next(seen)  # noqa: B023
                return Seen(shapes[not bad], recurs=bool(bad), replaced=bits % 3)  # noqa: B023

            verdict, _ = investigate(given, run)
            if verdict.culprit in layers:
                assert layers[verdict.culprit] in given.axes


def test_runs_that_cannot_be_finished_say_so() -> None:
    verdict = conclude(case(), {BASELINE: Seen(SOUND)}, "the budget is used up")
    assert verdict == AxesVerdict(None, "none", "not finished: the budget is used up", finished=False)
    assert conclude(case(), {BASELINE: Seen(LOOP, recurs=True)}, "").culprit is Culprit.MODEL


def test_first_differences() -> None:
    assert first_difference((1, 2, 3), (1, 2, 3)) is None
    assert first_difference((1, 2, 3), (1, 9, 3)) == 1
    assert first_difference((1, 2), (1, 2, 3)) is None
    assert first_difference((1, 2), (1, 2, 3), whole=True) == 2


def test_a_run_without_the_proof_cures_too() -> None:
    """A run that met a mismatch ended there, before the trouble could come again."""
    given = case(FAST)
    runs = {BASELINE: Seen(SOUND), FAST: Seen(LOOP[:1], mismatch=True)}
    assert [row["cures"] for row in rows(given, runs)] == [True, False]


def test_the_table_tells_what_was_changed_and_what_came_of_it() -> None:
    given = case()
    _, runs = investigate(given, world(lambda s: s.cached))
    table = rows(given, runs)
    assert [row["axis"] for row in table] == ["all", "none", "draft", "prefix"]
    assert [row["recurs"] for row in table] == [False, True, True, False]
    assert [row["cures"] for row in table] == [True, False, False, True]
    assert [row["first_difference"] for row in table] == [2, None, None, 2]
    assert table[0]["instead"] == [3, 4, 5, 6, 7, 8] and table[1]["instead"] == []
    assert [row["mode"] for row in table] == ["plain", "mtp+ngram/k4v4", "none/k4v4", "mtp+ngram/k4v4"]
    assert all(row["tokens"] == 8 for row in table)
