"""The recommendation: soundness before speed, always with reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.bench.pack.client import Answer
from proxy.bench.pack.figures import Trial, figures
from proxy.bench.pack.recommend import against, recommend

DEGENERATE = Path(__file__).with_name("degenerate.json")


def figured(mode: str, seconds: float, **changes: Any) -> dict[str, Any]:
    rate = {"value": 1.0, "low": 0.8, "high": 1.0, "of": 10}
    made = figures(mode, "quality", [Trial("t", [Answer(text="x")], seconds)]).plain()
    timed = ((seconds / 4,) * 4,) * 2
    return made | {"valid": rate, "passed": rate, "timed": timed} | changes


def timed(*rounds: tuple[float, ...]) -> dict[str, Any]:
    return {"timed": rounds, "seconds": sum(map(sum, rounds)) / len(rounds)}


def modes(**changes: Any) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        "plain": {"quality": figured("plain", 10.0)},
        "ngram/full": {"quality": figured("ngram/full", 8.0)},
        "mtp/full": {"quality": figured("mtp/full", 5.0, **changes)},
    }


def share(value: float) -> dict[str, Any]:
    return {"value": value, "low": 0.0, "high": 1.0, "of": 10}


def test_the_fastest_sound_mode_wins() -> None:
    advice = recommend(modes())
    assert advice.mode == "mtp/full" and advice.words.startswith("Switch on mtp/full: 0.50 (0.50-0.50) of plain")
    assert "ngram/full is sound too, at 0.80" in advice.words


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loops": 1}, "quality: 1 loops, plain 0"),
        ({"failures": 2}, "2 answers failed"),
        ({"valid": share(0.9)}, "9 of 10 tool calls are valid, 10 of 10 in plain"),
        ({"passed": share(0.9)}, "9 of 10 pass, 10 of 10 in plain"),
        ({"trips": 1}, "the guard had to step in 1 times, in plain 0"),
        ({"unknown_names": 1}, "1 repairs leave names that are nowhere, plain 0"),
        ({"refused": 3}, "3 answers began in a safer mode"),
        ({"text": "other"}, "it says something else than plain decoding"),
        ({"acceptance": {"value": 0.0, "low": 0.0, "high": 0.1, "of": 40}}, "not one of 40 drafts was accepted"),
    ],
)
def test_no_speed_makes_up_for_a_fault(changes: dict[str, Any], reason: str) -> None:
    advice = recommend(modes(**changes))
    assert advice.mode == "ngram/full" and reason in advice.words
    assert "mtp/full was the fastest at 0.50 (0.50-0.50) of plain's time and is refused all the same" in advice.words


def test_a_compressed_cache_may_say_something_else_but_lose_little() -> None:
    made = modes()
    made["mtp/k4v4"] = {"quality": figured("mtp/k4v4", 4.0, text="other", passed=share(0.985))}
    assert recommend(made).mode == "mtp/k4v4"
    made["mtp/k4v4"]["quality"]["passed"] = share(0.9)
    assert recommend(made).mode == "mtp/full"


def test_a_device_that_does_not_repeat_bits_may_say_something_else() -> None:
    assert recommend(modes(text="other"), "distribution").mode == "mtp/full"


def test_what_the_model_does_in_plain_decoding_too_is_held_against_no_mode() -> None:
    made = modes(loops=1, valid=share(0.5))
    made["plain"]["quality"] |= {"loops": 1, "valid": share(0.5)}
    advice = recommend(made)
    assert advice.mode == "mtp/full" and "Plain decoding itself: quality: 1 loops" in advice.words


def test_failing_faster_is_no_gain() -> None:
    """Everything fails, in every mode alike: a server that is out of order."""
    made = modes(failures=4)
    for own in made.values():
        own["quality"] |= {"failures": 4, "valid": None, "passed": None}
    advice = recommend(made)
    assert advice.mode == "plain" and advice.words.startswith("Nothing can be recommended")
    assert [verdict.time for verdict in advice.verdicts] == [None] * 3
    for own in made.values():  # where one workload does not fail, it alone is timed
        own["json"] = figured("plain", 10.0)
    advice = recommend(made)
    assert advice.mode == "plain" and [verdict.time for verdict in advice.verdicts] == [1.0] * 3
    assert "Times are without quality" in advice.words


def test_a_server_as_it_is_can_win_too() -> None:
    made = modes()
    made["served"] = {"quality": figured("served", 2.0)}
    advice = recommend(made, "")
    assert advice.mode == "served" and "as many tests passed" in advice.words


def test_who_makes_no_calls_has_no_valid_ones() -> None:
    made = modes(valid=None, text="other")
    made["mtp/k4v4"] = made.pop("mtp/full")
    advice = recommend(made)
    assert advice.mode == "ngram/full"
    assert "quality: nothing was there to be counted, 10 of 10 tool calls are valid in plain" in advice.words


def test_a_mode_that_gains_nothing_is_not_worth_it() -> None:
    made = {"plain": {"quality": figured("plain", 10.0)}, "mtp/full": {"quality": figured("mtp/full", 9.9)}}
    assert recommend(made).words.startswith("Stay with plain decoding: no sound mode takes less")


def test_one_round_decides_nothing() -> None:
    made = modes()
    for own in made.values():
        own["quality"]["timed"] = own["quality"]["timed"][:1]
    advice = recommend(made)
    assert advice.mode == "plain" and "of one round nothing is recommended" in advice.words
    assert "mtp/full at 0.50, ngram/full at 0.80" in advice.words and "--rounds 2" in advice.words
    assert advice.verdicts[1].high is None


def test_a_gain_that_chance_may_have_made_is_no_winner() -> None:
    """0.93 of the time on average: one step took half, the others a little more."""
    made = {"plain": {"quality": figured("plain", 8.0)}, "mtp/full": {"quality": figured("mtp/full", 8.0)}}
    made["mtp/full"]["quality"] |= timed((1.0, 2.1, 2.1, 2.1), (1.2, 2.1, 2.2, 2.1))
    advice = recommend(made)
    verdict = advice.verdicts[1]
    assert verdict.time is not None and verdict.time < 0.95 and verdict.high is not None and verdict.high > 1
    assert advice.mode == "plain" and advice.words.startswith("No clear winner, so stay with plain decoding")
    assert f"mtp/full at {verdict.told}" in advice.words
    made["mtp/full"]["quality"] |= timed((1.8, 1.9, 1.8, 1.9), (1.9, 1.8, 1.9, 1.8))
    assert recommend(made).mode == "mtp/full"


def test_rounds_that_differ_leave_it_open() -> None:
    """Every step of a round alike: only the rounds tell that the machine has changed."""
    made = {"plain": {"quality": figured("plain", 8.0)}, "mtp/full": {"quality": figured("mtp/full", 8.0)}}
    made["mtp/full"]["quality"] |= timed((2.1,) * 4, (1.2,) * 4)
    assert recommend(made).mode == "plain" and "No clear winner" in recommend(made).words


def test_between_modes_that_chance_tells_apart_the_one_with_the_same_text_is_taken() -> None:
    made = modes()
    made["mtp/full"]["quality"] |= timed((1.0, 1.3, 1.2, 1.4), (1.1, 1.3, 1.2, 1.3))
    made["mtp/k4v4"] = {"quality": figured("mtp/k4v4", 5.0, text="other")}
    made["mtp/k4v4"]["quality"] |= timed((1.1, 1.2, 1.2, 1.2), (1.1, 1.3, 1.1, 1.3))
    advice = recommend(made)
    assert (
        advice.mode == "mtp/full" and "There is no clear winner: beside mtp/k4v4, mtp/full takes 1.03 (" in advice.words
    )
    assert "mtp/full is named because its text is plain's, which mtp/k4v4's need not be" in advice.words
    made["mtp/k4v4"]["quality"] |= timed((0.5,) * 4, (0.5,) * 4)
    assert recommend(made).mode == "mtp/k4v4" and "clear winner" not in recommend(made).words


def test_a_compressed_cache_may_leave_few_such_names() -> None:
    plain, own = figured("plain", 10.0), figured("mtp/k4v4", 4.0, text="other", unknown_names=1)
    assert against("mtp/k4v4", own, plain, "bitwise") and not against("mtp/k4v4", own, plain, "bitwise", chance=1)


def test_a_mode_that_has_not_met_everything_cannot_win() -> None:
    made = modes()
    made["plain"]["loop"] = made["ngram/full"]["loop"] = figured("plain", 5.0)
    advice = recommend(made, partial=True)
    assert advice.mode == "ngram/full" and "it has not met loop" in advice.words and "stopped early" in advice.words


def test_without_plain_there_is_nothing_to_compare() -> None:
    advice = recommend({"served": {"loop": figured("served", 5.0, loops=2)}})
    assert advice.mode == "" and "served: loop: 2 loops" in advice.words
    assert recommend({}).mode == ""


def test_the_degenerate_fastest_arm_is_refused() -> None:
    """Recorded with verify-ignores-cache planted and a guard that only looks on: what is wrong is the fastest."""
    recorded = json.loads(DEGENERATE.read_text(encoding="utf-8"))
    measured = recorded["data"]["modes"]
    spent = {mode: sum(own["seconds"] for own in figured.values()) for mode, figured in measured.items()}
    fastest = min(spent, key=lambda mode: spent[mode])
    assert fastest == "mtp+ngram/full" and sum(own["loops"] for own in measured[fastest].values()) > 0
    advice = recommend(measured, recorded["settings"]["exactness"])
    assert advice.mode == "plain"
    assert f"{fastest} was the fastest" in advice.words and "is refused all the same" in advice.words


def test_a_mode_of_which_nothing_was_measured_is_not_sound() -> None:
    made = {"plain": {"quality": figured("plain", 10.0)}, "mtp/full": {}}
    advice = recommend(made, partial=True)
    assert advice.mode == "plain" and advice.verdicts[1].against == ("nothing of it was measured",)
    assert "no other mode was found sound" in advice.words
    none = recommend({"plain": {}}, partial=True)
    assert none.mode == "" and none.words.startswith("Plain decoding was not measured")


def test_of_few_tasks_a_compressed_cache_may_lose_one_where_that_is_allowed() -> None:
    plain, own = figured("plain", 10.0), figured("mtp/k4v4", 4.0, text="other", passed=share(0.9))
    assert against("mtp/k4v4", own, plain, "bitwise") and not against("mtp/k4v4", own, plain, "bitwise", chance=1)
    assert against("mtp/k4v4", own | {"passed": share(0.8)}, plain, "bitwise", chance=1)
    assert against("mtp/full", own | {"text": plain["text"]}, plain, "bitwise", chance=1), (
        "it says the same, or is wrong"
    )
