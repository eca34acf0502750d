"""Open containers: copies are apart, and equal JSON values have equal canonical forms."""

from __future__ import annotations

from typing import Any

import pytest

from detectors.json_stream.compiled import UNCHECKED
from detectors.json_stream.frame import Frame, canonical, step, unmet
from detectors.json_stream.nodes import Node


def frame(is_object: bool = True) -> Frame:
    return Frame(object(), UNCHECKED, is_object, 0, 0)


def test_a_copy_shares_nothing_that_changes() -> None:
    first = frame()
    first.seen.add("a")
    first.hits[1] = (1, 0)
    first.items = {1: 1}
    other = first.copy(object())
    other.seen.add("b")
    other.hits[1] = (2, 0)
    assert other.items is not None
    other.items[2] = 2
    assert (first.seen, first.hits, first.items) == ({"a"}, {1: (1, 0)}, {1: 1})


def test_what_a_complete_object_lacks() -> None:
    node = Node("")
    node.required, node.min_properties = ("a",), 2
    node.dep_required = [("dependentRequired", "b", ("c",))]
    open_object = frame()
    assert unmet(node, open_object) == "required"
    open_object.seen, open_object.count = {"a"}, 1
    assert unmet(node, open_object) == "minProperties"
    open_object.seen, open_object.count = {"a", "b"}, 2
    assert unmet(node, open_object) == "dependentRequired"
    open_object.seen, open_object.count = {"a", "b", "c"}, 3
    assert unmet(node, open_object) == ""


def test_steps_of_a_pointer() -> None:
    open_object, array = frame(), frame(False)
    open_object.key, array.count = "a/b~", 3
    assert (step(open_object), step(array)) == ("a~1b~0", "3")


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [(1, 1.0, True), (0, False, False), (1, True, False), (None, False, False), ("1", 1, False),
     ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True), ([1, 2], [2, 1], False), ([], {}, False), ([[]], [[]], True)],
)  # fmt: skip
def test_canonical_forms(left: Any, right: Any, equal: bool) -> None:
    assert (canonical(left) == canonical(right)) is equal
