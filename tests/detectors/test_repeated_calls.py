"""Equal calls in one response."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from detectors.finding import Finding
from detectors.repeated_calls import RepeatedCalls, RepeatedCallSettings, call_digest, canonical, step_digest


def told(*calls: tuple[str, str], settings: RepeatedCallSettings | None = None) -> list[str]:
    """Call n has the tokens 10n..10n+9."""
    detector = RepeatedCalls(settings or RepeatedCallSettings())
    findings: list[Finding] = []
    for n, (name, arguments) in enumerate(calls):
        finding = detector.feed(name, arguments, n, 10 * n, 10 * n + 9)
        findings += [finding] if finding else []
    return [f"{f.grade.name} {f.channel} x{f.evidence['copies']} at {f.position} since {f.began}" for f in findings]


def test_the_same_call_again_and_again() -> None:
    assert told(*[("ls", '{"path":"src"}')] * 6) == [
        "SUSPECT tool:1 x2 at 19 since 10",
        "FALLBACK tool:2 x3 at 29 since 10",
        "FALLBACK tool:3 x4 at 39 since 10",
        "ABORT tool:4 x5 at 49 since 10",
        "ABORT tool:5 x6 at 59 since 10",
    ]


def test_order_of_keys_and_spacing_do_not_count() -> None:
    calls = [("ed", '{"a":1,"b":{"c":2,"d":3}}'), ("ed", '{"b": {"d":3, "c":2}, "a":1}')]
    assert told(*calls) == ["SUSPECT tool:1 x2 at 19 since 10"]


def test_other_arguments_and_other_tools_are_other_calls() -> None:
    assert told(("ls", "{}"), ("rm", "{}"), ("ls", '{"a":1}'), ("ls", '{"a":"1"}'), ("ls", '{"a":true}')) == []


def test_what_comes_between_does_not_matter() -> None:
    assert told(("a", "{}"), ("b", "{}"), ("a", "{}"), ("c", "{}"), ("a", "{}")) == [
        "SUSPECT tool:2 x2 at 29 since 20",
        "FALLBACK tool:4 x3 at 49 since 20",
    ]


def test_calls_that_cannot_be_read_are_compared_as_text() -> None:
    assert [line.split()[0] for line in told(("", "<function=x"), ("", "<function=x"), ("", "<function=y"))] == [
        "SUSPECT"
    ]


def test_memory_is_bounded() -> None:
    settings = RepeatedCallSettings(distinct=2)
    calls = [("a", "1"), ("b", "1"), ("c", "1"), ("c", "1"), ("a", "1")]
    assert told(*calls, settings=settings) == ["SUSPECT tool:4 x2 at 49 since 40"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
)


@given(VALUES, VALUES, st.randoms(use_true_random=False))
def test_canonical_text_is_equal_exactly_for_equal_values(one: object, other: object, source: random.Random) -> None:
    assert json.loads(canonical(one)) == one
    assert canonical(one) == canonical(shuffled(one, source))
    assert (canonical(one) == canonical(other)) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


def shuffled(value: object, source: random.Random) -> object:
    if isinstance(value, dict):
        items = [(key, shuffled(item, source)) for key, item in value.items()]
        source.shuffle(items)
        return dict(items)
    return [shuffled(item, source) for item in value] if isinstance(value, list) else value


def test_a_step_is_the_set_of_its_calls() -> None:
    one, two = call_digest("a", "{}"), call_digest("b", "{}")
    assert step_digest([one, two]) == step_digest([two, one])
    assert len({step_digest([one]), step_digest([one, one]), step_digest([one, two]), step_digest([])}) == 4
    calls = RepeatedCalls()
    assert calls.digest == ""
    for name in "ba":
        calls.feed(name, "{ }", 0, 0, 0)
    assert calls.digest == step_digest([one, two])


def test_what_is_no_json_is_text_all_the_same() -> None:
    assert canonical({1, 2}) == '"{1, 2}"'
    assert canonical({"a": object}) == '{"a":"<class \'object\'>"}'
