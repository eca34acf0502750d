"""Loops of calls in a history: what they are, what only looks like one, and what clients do to histories."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.call_history import CallLoop, HistorySettings, find_loop, is_users, normalised
from detectors.finding import Grade
from detectors.repeated_calls import call_digest, canonical, step_digest
from proxy.conversation import Message, PastCall

USER = Message("user", "fix the test")
CLEARED = "[Old tool result content cleared]"
_ids = iter(range(10**9))


def step(*calls: tuple[str, Any, str | None], say: str = "") -> list[Message]:
    """One assistant turn: (tool, arguments, result) of each call; a result of None never came."""
    ids = [f"call_{next(_ids)}" for _ in calls]
    past = tuple(PastCall(i, name, arguments) for i, (name, arguments, _) in zip(ids, calls, strict=True))
    results = [Message("tool", text, call_id=i) for i, (_, _, text) in zip(ids, calls, strict=True) if text is not None]
    return [Message("assistant", say or f"thought {next(_ids)}", calls=past), *results]


def ls(result: str | None = "a.py b.py", path: str = "src") -> list[Message]:
    return step(("ls", {"path": path}, result))


def run(result: str | None) -> list[Message]:
    return step(("bash", {"command": "pytest -q"}, result))


def history(*parts: Sequence[Message]) -> list[Message]:
    return [Message("system", "s"), USER, *(message for part in parts for message in part)]


def found(*parts: Sequence[Message]) -> tuple[int, int, int] | None:
    loop = find_loop(history(*parts))
    return None if loop is None else (loop.period, loop.copies, loop.identical)


def test_one_call_with_one_result() -> None:
    assert [found(*[ls()] * n) for n in range(1, 6)] == [None, None, (1, 3, 3), (1, 4, 4), (1, 5, 5)]
    assert found(ls("x"), *[ls() for _ in range(3)]) == (1, 3, 3)


@pytest.mark.parametrize("period", range(1, 8))
def test_cycles(period: int) -> None:
    cycle = [ls(f"files {n}", f"d{n}") for n in range(period)]
    expected = (period, 3, 3) if period <= 6 else None
    assert found(run("once"), *cycle * 3) == expected
    assert found(*cycle * 3, *cycle[:-1]) == expected
    assert found(*cycle * 2, *cycle[1:]) is None


def test_the_shortest_cycle_is_told() -> None:
    assert found(*[ls()] * 12) == (1, 12, 12)
    assert found(*[ls(), run("1 failed")] * 6) == (2, 6, 6)


def test_only_the_end_counts() -> None:
    assert found(*[ls()] * 5, run("ok")) is None


def test_polling_with_changing_results_is_no_loop() -> None:
    assert found(*[run(f"{n} % done") for n in range(30)]) is None
    assert found(*[step(("wait", {}, "running"), ("read", {}, f"line {n}")) for n in range(30)]) is None


def test_edit_and_test_with_changing_arguments_is_no_loop() -> None:
    assert found(*[m for n in range(9) for m in (step(("edit", {"new": n}, "ok")), run("1 failed in 0.3s"))]) is None


def test_results_that_differ_in_times_alone_are_equal_but_not_identical() -> None:
    assert found(*[run(f"1 failed in 0.{n}1s") for n in range(5)]) == (1, 5, 1)
    assert found(*[run("1 failed in 0.1s")] * 2, *[run("1 failed in 0.2s")] * 4) == (1, 6, 4)


def test_the_thinking_between_does_not_count() -> None:
    assert found(*[step(("ls", {}, "a"), say=f"Let me try number {n}") for n in range(4)]) == (1, 4, 4)


def test_parallel_calls_are_one_step_in_any_order() -> None:
    one, two = ("ls", {"path": "a"}, "x"), ("ls", {"path": "b"}, "y")
    assert found(step(one, two), step(two, one), step(one, two)) == (1, 3, 3)
    assert found(step(one, two), step(one), step(two), step(one, two)) is None
    swapped = step(("ls", {"path": "a"}, "y"), ("ls", {"path": "b"}, "x"))
    assert found(step(one, two), swapped, step(one, two)) is None


def test_order_of_keys_does_not_count() -> None:
    assert found(
        step(("e", {"a": 1, "b": 2}, "")), step(("e", {"b": 2, "a": 1}, "")), step(("e", {"a": 1, "b": 2}, ""))
    )


@pytest.mark.parametrize(
    "text", ["go on", "no, the other file", "<b>look</b>", "<system-reminder>x</system-reminder> go"]
)
def test_what_a_user_says_begins_anew(text: str) -> None:
    said = [Message("user", text)]
    assert found(*[ls()] * 4, said) is None
    assert found(*[ls()] * 4, said, *[ls()] * 2) is None
    assert found(*[ls()] * 4, said, *[ls()] * 3) == (1, 3, 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "<system-reminder>\nThe todo list is empty.\n</system-reminder>",
        "<system-reminder>a</system-reminder>\n<environment_context><cwd>/</cwd></environment_context>\n",
        "Your response above was cut off mid-stream. Resume directly, no apology.",
    ],
)
def test_what_clients_add_does_not(text: str) -> None:
    added = [Message("user", text)]
    assert found(*[[*ls(), *added]] * 4) == (1, 4, 4)


def test_reminders_without_an_end_are_taken_as_said() -> None:
    assert is_users("<system-reminder>" * 50_000)


def test_cleared_results_agree_with_all_but_prove_nothing() -> None:
    assert found(*[ls(CLEARED)] * 5, *[ls()] * 2) == (1, 7, 7)
    assert found(*[ls(CLEARED)] * 6, ls()) is None
    assert found(*[run(CLEARED)] * 5, run("10 %"), run("20 %")) is None
    assert found(*[ls(CLEARED), run(CLEARED)] * 3, *[ls(), run("1 failed")] * 2) == (2, 5, 5)
    assert found(*[ls(CLEARED), run(CLEARED)] * 3, ls(), run("1 failed"), ls()) is None


def test_results_that_never_came_are_unknown() -> None:
    assert found(ls(None), ls(), ls()) == (1, 3, 3)
    assert found(*[ls(None)] * 4) is None


def test_a_compacted_history_begins_with_its_summary() -> None:
    summary = Message("user", "This session is being continued. Summary: ls was called 40 times.")
    orphans = [Message("tool", "a.py b.py", call_id="call_gone")]
    assert find_loop([summary, *orphans, *ls(), *ls()]) is None
    assert find_loop([summary, *orphans, *ls(), *ls(), *ls()]) is not None


def test_a_retry_gives_the_same_answer() -> None:
    messages = history(*[ls()] * 3)
    assert find_loop(messages) == find_loop(list(messages))


def test_servers_that_give_every_call_one_id() -> None:
    def same(result: str) -> list[Message]:
        calls = (PastCall("0", "ls", {}), PastCall("0", "pwd", {}))
        return [
            Message("assistant", "", calls=calls),
            Message("tool", result, call_id="0"),
            Message("tool", "/", call_id="0"),
        ]

    assert found(*[same("a")] * 3) == (1, 3, 3)
    assert found(same("a"), same("b"), same("c")) is None


def test_broken_arguments_repeat_as_well() -> None:
    """85 identical malformed calls, each with a warning: hermes-agent issue 67829."""
    broken = step(("call", {"__raw": '{"arguments": {'}, "error: not JSON. Do not repeat this call!"))
    assert found(*[broken] * 60) == (1, 60, 60)
    assert found(*[broken] * 85) == (1, 64, 64)  # more are not counted


def test_the_finding() -> None:
    loop = find_loop(history(*[ls(), run("1 failed")] * 4))
    assert loop == CallLoop(2, 4, 4, ("ls", "bash"), step_digest([call_digest("ls", canonical({"path": "src"}))]))
    finding = loop.finding()
    assert (finding.detector, finding.grade, finding.channel) == ("loop.history", Grade.FALLBACK, "session")
    assert "src" not in str(finding.evidence)
    five = find_loop(history(*[ls()] * 5))
    assert five is not None
    assert five.finding().grade is Grade.ABORT


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("done in 0.31s", "done in 12s"),
        ("took 1.5 seconds, 3 min", "took 22 seconds, 4 min"),
        ("at 2026-11-24T10:11:12.123Z", "at 2026-11-25 03:04:05+01:00"),
        ("[10:11:12] x", "[10:11:13,456] x"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "id 00000000-0000-4000-8000-000000000001"),
        ("<obj at 0x7f3a>", "<obj at 0x7f3b99>"),
        ("commit 1a2b3c4d5e", "commit ffeeddcc00"),
    ],
)
def test_what_differs_each_time_is_left_out(one: str, two: str) -> None:
    assert one != two
    assert normalised(one) == normalised(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("3 failed", "2 failed"),
        ("40 %", "41 %"),
        ("line 120", "line 121"),
        ("facade", "decade"),
        ("effaced accede", "deface accede"),
        ("12345678", "12345679"),
        ("v1.2", "v1.3"),
    ],
)
def test_what_tells_of_progress_stays(one: str, two: str) -> None:
    assert normalised(one) != normalised(two)


# An independent definition: all cycles by slicing, no laziness, no unknown results.

STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), max_size=14)


@given(STEPS, st.integers(1, 3))
def test_against_the_definition(kinds: list[tuple[str, str]], times: int) -> None:
    kinds = kinds + kinds[-4:] * times
    expected = None
    for period in range(1, 7):
        copies = 1
        while kinds[-period * (copies + 1) :][: period * copies] == kinds[-period * copies :] and len(
            kinds
        ) >= period * (copies + 1):
            copies += 1
        assert copies < 64
        if kinds and copies >= 3:
            expected = (period, copies, copies)
            break
    assert found(*[step((name, {}, result)) for name, result in kinds]) == expected


def defined(steps: list[tuple[str, str | None]]) -> tuple[int, int] | None:
    """The definition with unknown results (None): all ends of the history, each judged as a whole."""
    for period in range(1, 7):
        for length in range(len(steps), 3 * period - 1, -1):
            places = [steps[::-1][:length][place::period] for place in range(period)]
            known = [[result for _, result in place if result is not None] for place in places]
            if all(len({name for name, _ in place}) == 1 for place in places) and all(len(set(k)) < 2 for k in known):
                if all(len(k) > 1 for k in known):
                    return period, length // period
                break
    return None


RESULTS = st.sampled_from(["x", "x", "x", "y", None])


@given(st.lists(st.tuples(st.sampled_from("ab"), RESULTS), max_size=5), st.integers(1, 6), st.data())
def test_unknown_results_against_the_definition(
    cycle: list[tuple[str, str | None]], times: int, data: st.DataObject
) -> None:
    kinds = cycle * times
    cleared = data.draw(st.sets(st.integers(0, max(0, len(kinds) - 1)), max_size=8))
    kinds = [(name, None if at in cleared else result) for at, (name, result) in enumerate(kinds)]
    shown = data.draw(st.sampled_from([CLEARED, None]))
    loop = found(*[step((name, {}, shown if result is None else result)) for name, result in kinds])
    assert (loop and loop[:2]) == defined(kinds)


def worked(source: random.Random, turns: int) -> list[Message]:
    """An agent that edits, tests, reads and searches as agents do, with failures and repetitions, and gets on."""
    messages: list[Message] = []
    failing = source.randint(1, 6)
    for turn in range(turns):
        kind = source.random()
        path = f"src/m{source.randint(0, 3)}.py"
        if kind < 0.35:
            ok = source.random() < 0.8
            arguments = {"path": path, "old": f"x = {turn}", "new": f"x = {turn + 1}"}
            messages += step(("edit", arguments, "ok" if ok else "error: text not found"))
        elif kind < 0.65:
            failing = max(0, failing + source.choice((-1, 0, 0, 0, 1)))
            messages += run(f"{failing} failed, {40 - failing} passed in {source.random():.2f}s")
        elif kind < 0.8:
            messages += step(("read", {"path": path}, f"x = {turn}\n" * 3), ("read", {"path": "README"}, "text"))
        elif kind < 0.9:
            messages += step(("grep", {"pattern": source.choice(("x =", "def f"))}, f"{path}:1: x = {turn}"))
        else:
            messages += step(("poll", {"job": 1}, f"running, {turn} lines"))
    return messages


def test_agents_at_work_are_no_loop() -> None:
    """Every prefix of 60 histories of 60 steps. Testing twice without a change is common, three times is a loop."""
    source, checked, hits = random.Random(7), 0, []
    for _ in range(60):
        messages = history(worked(source, 60))
        for end in range(2, len(messages), 3):
            checked += 1
            loop = find_loop(messages[:end])
            hits += [loop] if loop else []
    assert checked > 2000
    # The generator itself runs the tests three times in a row with an unchanged number of failures now and then.
    assert all(loop.tools == ("bash",) and loop.period == 1 for loop in hits)
    assert len(hits) / checked < 0.02
    assert not [loop for loop in hits if loop.copies >= HistorySettings().many + 1 and loop.identical > 2]


class Counted(dict[str, Any]):
    """Arguments that count how often they are looked at."""

    looks = 0

    def items(self) -> Any:
        Counted.looks += 1
        return super().items()

    def __eq__(self, other: object) -> bool:
        Counted.looks += 1
        return super().__eq__(other)


def test_the_order_of_keys_does_not_hide_a_loop_and_equal_numbers_of_two_kinds_are_none() -> None:
    turned = [step(("ls", dict(reversed(each.items())), "x")) for each in [{"path": "src", "all": True}] * 2]
    assert found(step(("ls", {"path": "src", "all": True}, "x")), *turned) == (1, 3, 3)
    assert found(*[step(("ls", {"depth": n}, "x")) for n in (1, 1.0, True)]) is None


def test_a_long_history_takes_linear_time() -> None:
    """Counted, not timed: healthy arguments at the end are looked at a few times, whatever comes before."""
    for steps in (400, 800):
        Counted.looks = 0
        messages = history(*[step(("ls", Counted(path="src", n=n), "x" * 1000)) for n in range(steps)])
        assert find_loop(messages) is None
        assert 0 < Counted.looks <= 12
        Counted.looks = 0
        messages = history(*[step(("ls", Counted(path="src", n=n % 6), "x" * 1000)) for n in range(steps)])
        loop = find_loop(messages)
        assert loop is not None
        assert (loop.period, loop.copies) == (6, min(64, steps // 6))
        assert 0 < Counted.looks <= 3 * 6 * loop.copies


@pytest.mark.slow
def test_what_a_long_history_costs() -> None:
    healthy = history(worked(random.Random(1), 400))
    looping = history(*[ls("line of output in 0.31s\n" * 400) for _ in range(400)])
    waiting = history(*[ls(f"line of output in 0.{n}s\n" * 400) for n in range(400)])
    for name, messages in (("healthy", healthy), ("looping", looping), ("waiting", waiting)):
        started = time.process_time()
        find_loop(messages)
        print(f"{name}: {(time.process_time() - started) * 1e3:.2f} ms for {len(messages)} messages")
