"""The logic between the nodes of a place: Kleene's, in one pass, and circles are found."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from detectors.json_stream.nodes import NUMBER, STRING, Node
from detectors.json_stream.plan import Plan, cut_cycles, may_settle_early, operands

OPEN, DEAD, VALID = 0, 1, 2


def plan_of(*formulas: tuple[str, str, Any]) -> Plan:
    """Nodes 0, 1 and 2 without formulas, then the root with these."""
    nodes = [Node("") for _ in range(4)]
    nodes[3].formulas = list(formulas)
    return Plan(nodes, [0, 1, 2, 3], (3,))


def verdict(plan: Plan, states: tuple[int, ...], seen: frozenset[str] = frozenset(), final: bool = False) -> int:
    dead = sum(1 << i for i, state in enumerate(states) if state == DEAD)
    settled = sum(1 << i for i, state in enumerate(states) if state == VALID) | 8
    dead, valid, _ = plan.close(dead, settled, seen, final)
    return DEAD if dead & 8 else VALID if valid & 8 else OPEN


def completions(states: tuple[int, ...]) -> list[tuple[bool, ...]]:
    return list(product(*[{OPEN: (False, True), DEAD: (False,), VALID: (True,)}[state] for state in states]))


@pytest.mark.parametrize(
    ("formula", "truth"),
    [
        (("all", "allOf", (0, 1, 2)), lambda a, b, c: a and b and c),
        (("any", "anyOf", (0, 1, 2)), lambda a, b, c: a or b or c),
        (("one", "oneOf", (0, 1, 2)), lambda a, b, c: a + b + c == 1),
        (("not", "not", 0), lambda a, b, c: not a),
        (("if", "if", (0, 1, 2)), lambda a, b, c: b if a else c),
        (("if", "if", (0, 1, -1)), lambda a, b, c: not a or b),
        (("if", "if", (0, -1, 2)), lambda a, b, c: a or c),
    ],
)
def test_a_verdict_is_given_exactly_when_all_completions_agree(formula: Any, truth: Any) -> None:
    plan = plan_of(formula)
    for states in product((OPEN, DEAD, VALID), repeat=3):
        outcomes = {bool(truth(*each)) for each in completions(states)}
        expected = OPEN if len(outcomes) == 2 else VALID if outcomes == {True} else DEAD
        assert verdict(plan, states) == expected, states


def test_a_dependent_schema_counts_once_its_key_is_there() -> None:
    plan = plan_of(("dep", "dependentSchemas", ("k", 0)))
    assert verdict(plan, (DEAD, OPEN, OPEN)) == OPEN
    assert verdict(plan, (DEAD, OPEN, OPEN), frozenset({"k"})) == DEAD
    assert verdict(plan, (DEAD, OPEN, OPEN), final=True) == VALID


def test_the_choice_that_failed_is_blamed() -> None:
    plan = plan_of(("any", "anyOf", (0, 1)))
    _, _, blame = plan.close(3, 8, (), False)
    assert blame is not None
    assert blame[1] == "anyOf"


def test_the_first_byte_decides_the_kind() -> None:
    node = Node("/x")
    node.kinds = 1 << NUMBER
    plan = Plan([node], [0], (0,))
    assert plan.start[STRING] == (1, 0, 0)
    assert plan.start[NUMBER] == (0, 1, 1)
    assert plan.explain(STRING, 1) == (node, "type")


def test_operands_come_first_and_circles_are_refused() -> None:
    nodes = {i: Node("") for i in range(4)}
    nodes[0].formulas = [("all", "allOf", (1, 2)), ("if", "if", (3, -1, 1))]
    nodes[1].formulas = [("not", "not", 2)]
    assert sorted(operands(nodes[0])) == [1, 1, 2, 3]
    order = cut_cycles(0, nodes.__getitem__)
    assert order is not None
    assert order.index(2) < order.index(1) < order.index(0)
    nodes[2].formulas = [("dep", "dependentSchemas", ("k", 0))]
    assert cut_cycles(0, nodes.__getitem__) is None


def test_an_object_settles_early_only_if_no_later_member_matters() -> None:
    node = Node("")
    assert may_settle_early(node)
    node.additional = 1
    assert not may_settle_early(node)
