"""The demo's claims: each fails alone when what it speaks of did not happen."""

from __future__ import annotations

from typing import Any

import pytest

from examples.agent.transcript import Call, Transcript, Turn
from examples.demo.verdict import Runs, judge, tally

INCIDENT = {"opened": {"tokens_rewound": 3}, "closed": {"culprit": "speculation"}}


def run(mode: str, *incidents: str) -> Transcript:
    call = Call("a", "run_tests", "{}")
    first = Turn(calls=[call], results=["1 passed"], token_ids=[1, 2], mode=mode, incidents=list(incidents))
    return Transcript([first, Turn(text="ok", token_ids=[3], mode=mode)], True, True)


def runs() -> Runs:
    return Runs(run("mtp/full"), run("plain"), run("plain", "inc_1"))


def failed(what: Runs, incidents: list[Any]) -> list[str]:
    return [check.claim for check in judge(what, incidents) if not check.held]


def test_all_hold() -> None:
    assert failed(runs(), [INCIDENT]) == []


def test_red_tests() -> None:
    broken = runs()
    broken.fast.tests_green = False
    broken.planted.tests_green = None
    assert failed(broken, [INCIDENT]) == [
        "the agent repaired the bug",
        "the agent repaired the bug all the same",
    ]


@pytest.mark.parametrize(
    ("run_name", "claim"),
    [("fast", "speculation changed no token"), ("planted", "the fault changed no token")],
)
@pytest.mark.parametrize("ids", [[1, 9], []])
def test_other_or_missing_tokens(run_name: str, claim: str, ids: list[int]) -> None:
    broken = runs()
    getattr(broken, run_name).turns[0].token_ids = ids
    assert failed(broken, [INCIDENT]) == [claim]


def test_no_incident() -> None:
    quiet = runs()
    quiet.planted.turns[0].incidents = []
    assert failed(quiet, []) == [
        "the planted fault was caught",
        "the same response went on in plain decoding",
        "speculation was blamed",
    ]


def test_stayed_in_the_fast_mode() -> None:
    broken = runs()
    broken.planted.turns[0].mode = "mtp/full"
    assert failed(broken, [INCIDENT]) == ["the same response went on in plain decoding"]


@pytest.mark.parametrize("closed", [None, {"culprit": "model"}])
def test_other_blame(closed: Any) -> None:
    assert failed(runs(), [{"opened": {}, "closed": closed}]) == ["speculation was blamed"]


def test_broken_call() -> None:
    broken = runs()
    for each in (broken.fast, broken.plain, broken.planted):
        each.turns[0].calls = [Call("a", "run_tests", "{")]
    assert failed(broken, [INCIDENT]) == ["no broken tool call got through"]


def test_tally_leaves_out_what_is_unknown() -> None:
    assert tally(run("plain")) == "2 turns, 3 tokens, 0.0 s"
    numbers = {"predicted_n": 10, "predicted_ms": 100.0, "draft_n": 8, "draft_n_accepted": 6}
    turn = Turn(usage={"completion_tokens": 10}, timings=numbers, seconds=0.5)
    assert tally(Transcript([turn])) == "1 turns, 10 tokens, 0.5 s, 100 tokens/s, 75% of 8 drafted tokens accepted"


def test_blame_is_counted() -> None:
    incidents = [INCIDENT, {"opened": {}, "closed": {"culprit": "model"}}, INCIDENT]
    assert "1 x model, 2 x speculation" in [check.detail for check in judge(runs(), incidents)]
