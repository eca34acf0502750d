"""Decisions on recorded incidents, repeated under other rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from policies.modes import PLAIN, DecodeMode
from policies.overrides import Overrides, effective
from policies.policy import Policy
from policies.rule_file import parse
from proxy.incidents import Incident, Record
from proxy.replays.policies import Replayed, Summary, replay
from tests.proxy.incidents.samples import INCIDENT
from tests.proxy.played import LS, Played, play
from tests.proxy.scripted import Script, call_text

RM = call_text("rm", path="src")
BOTH = DecodeMode("mtp+ngram", "k4v4")


def recorded(incident: Incident, number: int = 0) -> Record:
    """As a store gives it back."""
    return Record(
        incident.id, f"2026-11-27T00:00:{number:02}.000Z", json.loads(json.dumps(asdict(incident), default=str))
    )


def records(*played: Played) -> list[Record]:
    incidents = [incident for each in played for incident in each.sink.incidents]
    return [recorded(incident, number) for number, incident in enumerate(incidents)]


def replayed(
    given: Sequence[Record], policy: Policy | None = None, overrides: Overrides | None = None
) -> list[Replayed]:
    found = list(replay(given, policy or Policy(), overrides or Overrides()))
    assert None not in found
    return [each for each in found if each is not None]


def under(given: Sequence[Record], text: str) -> list[Replayed]:
    return replayed(given, *effective(parse(text), {}))


LOOP = " go on" * 2000
SCRIPTS: list[tuple[Script | str, Policy, DecodeMode]] = [
    (Script(f"so {LS}", fast=f"so {RM}"), Policy(), BOTH),
    (Script("a b c d", fast="a b X Y", audited="all", width=2), Policy(), BOTH),
    (f"so {RM}", Policy(), BOTH),
    (RM, Policy(), PLAIN),
    (f"I will{LOOP}", Policy(), BOTH),
    (call_text("ls", path=LOOP), Policy(), BOTH),
    (Script(LS, fast=RM), Policy(max_rewinds=0), BOTH),
    (Script("one two", nonfinite=frozenset({1})), Policy(), BOTH),
    (f"{LS}\n" * 40, Policy(), BOTH),
    (Script("a b c d", fast="a b X Y", audited="all", width=2), Policy("observe"), BOTH),
    (f"{call_text('ls', path='[1,]')}x".replace("path", "pth"), Policy(repair=True), PLAIN),
]


@pytest.mark.parametrize("case", range(len(SCRIPTS)))
def test_the_same_policy_would_have_done_the_same(case: int) -> None:
    """The record holds all that a decision needs: played responses, replayed from their records alone."""
    script, policy, mode = SCRIPTS[case]
    given = records(play(script, policy, mode))
    assert given
    found = replayed(given, policy)
    assert [each.would for each in found] == [each.done for each in found]
    assert not any(each.assumed or each.parted for each in found)
    assert [each.rule for each in found] == [record.opened["rule"] for record in given]


def test_other_rules_would_have_done_something_else() -> None:
    given = records(play(Script(f"so {LS}", fast=f"so {RM}")))
    (found,) = under(given, '[[rule]]\nname = "strict"\nwhen.detector = "tool.*"\ndo = ["end"]')
    assert (found.done, found.would, found.rule, found.same) == ("rewind in plain", "end", "strict", False)
    (found,) = under(given, 'action = "observe"')
    assert (found.would, found.rule) == ("none", "")
    (found,) = under(given, "max_rewinds = 0")
    assert found.would == "end"


def test_what_came_after_another_decision_is_marked() -> None:
    given = records(play(f"so {RM}\n{LS}\n", mode=DecodeMode("mtp")), play(f"{RM}", request_id="req_2"))
    script = Script(plain=f"one {LS}", packed=f"one {RM}", fast="one thxxx", audited="all", width=1)
    both = records(play(script, mode=BOTH))
    assert len(both) == 2
    first, second = under(both, "max_rewinds = 0")
    assert (first.parted, second.parted) == (False, True)
    assert [each.parted for each in under(given, "max_rewinds = 0")] == [False] * len(given)


def test_rewinds_of_the_same_response_are_remembered() -> None:
    old = [replace(INCIDENT, id=f"inc_{n}", mode_before="mtp/k4v4", situation={}) for n in range(3)]
    other = replace(INCIDENT, id="inc_9", request_id="req_2", situation={})
    found = replayed([recorded(incident) for incident in (*old, other)])
    assert [each.would for each in found] == ["rewind in plain", "rewind in plain", "end", "rewind in plain"]


def test_records_from_before_say_what_was_assumed() -> None:
    opened = {name: value for name, value in asdict(INCIDENT).items() if name not in ("situation", "rule", "origin")}
    (found,) = replayed([Record("inc_1", "2026-01-01T00:00:00.000Z", opened)])
    assert (found.done, found.would) == ("rewind in plain", "rewind in plain")
    assert found.assumed == ("recorded before situations were: what had been delivered, the open call and its name",)


def test_a_stall_from_before_could_not_be_rewound() -> None:
    stall = replace(INCIDENT, detector="stall.step", grade="abort", action="end", channel="engine", situation={})
    policy = effective(parse('shipped_rules = false\n[[rule]]\nname = "x"\ndo = ["rewind", "end"]'), {})[0]
    assert replayed([recorded(stall)], policy)[0].would == "end"


FILE = """
[[override]]
name = "shell"
tool = "bash"
max_rewinds = 0
[[override]]
name = "qwen"
model = "scripted"
route = "openai.*"
action = "observe"
"""


def test_an_override_by_model_and_route_is_matched_again() -> None:
    given = records(play(Script(f"so {LS}", fast=f"so {RM}")))
    (found,) = under(given, FILE)
    assert (found.override, found.would) == ("qwen", "none")
    assert "neither declared tools nor headers" in found.assumed[0]


def test_an_override_that_was_applied_is_applied_again() -> None:
    given = records(play(Script(f"so {LS}", fast=f"so {RM}"), Policy(override="shell")))
    (found,) = under(given, FILE)
    assert (found.override, found.would, found.assumed) == ("shell", "end", ())


@pytest.mark.parametrize(
    "change",
    [{"grade": "worse"}, {"mode_before": "warp/9", "situation": {}}, {"began": None}, {"situation": {"mode": "plain"}}],
)
def test_a_record_that_is_not_understood_is_left_out(change: dict[str, Any]) -> None:
    bad = Record("inc_0", "2026-01-01T00:00:00.000Z", {**asdict(INCIDENT), **change})
    found = list(replay([bad, recorded(INCIDENT)], Policy(), Overrides()))
    assert found[0] is None
    assert found[1] is not None


def test_the_summary_counts() -> None:
    summary = Summary()
    one = Replayed("inc_1", "", "tool.schema", "fallback", "rewind in plain", "end", "strict", "")
    for each in (one, one, replace(one, would=one.done, assumed=("x",)), replace(one, parted=True), None):
        summary.take(each)
    assert (summary.incidents, summary.same, summary.assumed, summary.parted, summary.unreadable) == (4, 1, 1, 1, 1)
    assert summary.changes == {("rewind in plain", "end"): 3}
