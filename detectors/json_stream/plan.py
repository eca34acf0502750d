"""All nodes that look at one place of the value, and the logic between them; the same for every such place.

Must not: hold anything about a particular value: plans are shared by all streams of a schema.
Invariant: nodes stand in post-order (operands first), so one pass over the formulas settles everything. Which
nodes look at a place depends on the path to it alone, so there are few plans, made when first needed.

Verdicts on the nodes of a place are two integers, a bit per node: dead (cannot become valid) and valid (will be,
whatever follows). A node in neither is open. The logic is Kleene's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from detectors.json_stream.nodes import KINDS, OBJECT, STRING, Node

MAX_NODES = 4_096
"""At one place; beyond it the place is not looked at before the end."""

Ops = tuple[tuple[str, str, Any], ...]
Watcher = tuple[bool, int, str, Any]
"""(is a key of the enclosing object's own, bit of the node, what, data): see strings.py."""


class Link(NamedTuple):
    """From a place to a place inside it. Masks are the outer plan's, bits the inner one's.

    uses: (bit, mask): if that node dies, these die. never: die because no value at all fits. counts: (bit, outer
    bit) of `contains`. unknown: outer nodes that nobody answers.
    """

    plan: Plan
    uses: tuple[tuple[int, int], ...]
    never: int
    counts: tuple[tuple[int, int], ...]
    unknown: int
    silent: bool
    """Nothing is ever reported: no uses, no counts, nothing unknown."""


class Plan:
    """The nodes of a place. roots: bits of those that somebody asked for; `start`: verdicts after the first byte.

    finals: (dead, valid) of a scalar that has no checks but its kind. The rest: which nodes need a look when.
    """

    __slots__ = (
        "all", "checks", "closed", "contains", "counted", "depends", "elements", "ends_array", "ends_object", "finals",
        "formulas", "index", "max_items", "max_properties", "members", "named", "names", "nodes", "numbers", "opaque",
        "quiet", "roots", "settlers", "start", "unique", "watchers",
    )  # fmt: skip

    def __init__(self, nodes: list[Node], numbers: list[int], roots: Collection[int]) -> None:
        self.nodes = nodes
        self.index = {number: i for i, number in enumerate(numbers)}
        self.all = (1 << len(nodes)) - 1
        self.roots = self.mask(roots)
        bits = [(1 << i, node) for i, node in enumerate(nodes)]
        self.opaque = sum(bit for bit, node in bits if node.opaque)
        self.formulas = tuple((bit, node, self._ops(node)) for bit, node in bits if node.formulas)
        self.depends = any(op == "dep" for _, _, ops in self.formulas for op, _, _ in ops)
        self.start = [self._start(kind) for kind in range(KINDS)]
        self.finals = [self._final(kind) for kind in range(KINDS)]
        self.quiet = [
            dead == self.start[kind][0] and (dead | valid) & self.roots == self.roots
            for kind, (dead, valid) in enumerate(self.finals)
        ]
        self.watchers: list[Watcher] = []
        for bit, node in bits:
            self.watchers += [(False, bit, keyword, options) for keyword, options in node.enums]
            if node.max_length is not None:
                self.watchers.append((False, bit, "maxLength", node.max_length))
        self.checks = tuple((bit, node, node.string) for bit, node in bits if node.string is not None)
        self.numbers = tuple((bit, node, node.number) for bit, node in bits if node.number is not None)
        self.closed: list[Watcher] = [
            (True, bit, "additionalProperties", node.closed) for bit, node in bits if node.closed is not None
        ]
        self.max_properties = tuple((b, n, n.max_properties) for b, n in bits if n.max_properties is not None)
        self.ends_object = tuple(
            (bit, node) for bit, node in bits if node.required or node.min_properties or node.dep_required
        )
        self.max_items = tuple((bit, node, node.max_items) for bit, node in bits if node.max_items is not None)
        self.ends_array = tuple((bit, node) for bit, node in bits if node.min_items or node.contains is not None)
        self.contains = tuple((bit, node) for bit, node in bits if node.contains is not None)
        self.unique = tuple((bit, node) for bit, node in bits if node.unique)
        undecided = [(b, n) for b, n in bits if may_settle_early(n) and not n.is_loose(OBJECT)]
        decisive = any(op in ("one", "not", "if", "dep") for _, _, ops in self.formulas for op, _, _ in ops)
        self.settlers = tuple(undecided) if decisive else ()
        self.counted = max((len(node.prefix) for node in nodes), default=0)
        self.members: dict[Any, Link] = {}
        self.elements: dict[int, Link] = {}
        self.names: Link | None = None
        self.named = any(node.names is not None for node in nodes)

    def mask(self, numbers: Collection[int]) -> int:
        return sum(1 << self.index[number] for number in set(numbers))

    def close(
        self, dead: int, settled: int, seen: Collection[str], final: bool
    ) -> tuple[int, int, tuple[Node, str] | None]:
        """(dead, valid, who made the last choice fail). settled: nodes whose own checks are all passed."""
        valid = settled & ~dead
        blame = None
        for bit, node, ops in self.formulas:
            if dead & bit:
                continue
            passed = True
            for op, keyword, data in ops:
                fails, holds = _judge(op, data, dead, valid, seen, final)
                if fails:
                    dead |= bit
                    passed = False
                    if op != "all":
                        blame = (node, keyword)
                    break
                passed = passed and holds
            if not passed:
                valid &= ~bit
        return dead, valid, blame

    def explain(self, kind: int, bit: int) -> tuple[Node, str]:
        """Why a node is dead after the first byte of a value."""
        node = self.nodes[bit.bit_length() - 1]
        if not node.kinds >> kind & 1:
            return node, node.kind_keyword
        dead, valid, _ = self.start[kind]
        for at, _node, ops in self.formulas:
            if at != bit:
                continue
            for op, keyword, data in ops:
                if _judge(op, data, dead, valid, (), False)[0]:
                    if op != "all":
                        return node, keyword
                    culprit = dead & data
                    return self.explain(kind, culprit & -culprit)
        return node, node.kind_keyword

    def _start(self, kind: int) -> tuple[int, int, int]:
        """(dead, valid, settled)."""
        dead = settled = 0
        for i, node in enumerate(self.nodes):
            if not node.kinds >> kind & 1:
                dead |= 1 << i
            elif node.is_loose(kind):
                settled |= 1 << i
        closed, valid, _ = self.close(dead, settled, (), False)
        return closed, valid, settled

    def _final(self, kind: int) -> tuple[int, int]:
        dead, _, _ = self.start[kind]
        dead, valid, _ = self.close(dead, self.all & ~self.opaque, (), True)
        return dead, valid

    def _ops(self, node: Node) -> Ops:
        """Formulas with bits in place of numbers; operands that are left out of the plan (cycles) are unknown."""
        ops: list[tuple[str, str, Any]] = []
        for op, keyword, data in node.formulas:
            if op in ("all", "any", "one"):
                ops.append((op, keyword, self.mask(data)))
            elif op == "not":
                ops.append((op, keyword, self.mask((data,))))
            elif op == "dep":
                ops.append((op, keyword, (data[0], self.mask(data[1:]))))
            else:
                ops.append((op, keyword, tuple(0 if part < 0 else self.mask((part,)) for part in data)))
        return tuple(ops)


def may_settle_early(node: Node) -> bool:
    """Whether an object can be settled as valid before it ends, because no later member can matter."""
    return not (
        node.opaque or node.patterns or node.additional is not None or node.names is not None
        or node.dep_required or node.max_properties is not None
    )  # fmt: skip


def _judge(op: str, data: Any, dead: int, valid: int, seen: Collection[str], final: bool) -> tuple[bool, bool]:
    """(cannot hold any more, holds whatever follows)."""
    match op:
        case "all":
            return bool(dead & data), valid & data == data
        case "any":
            return dead & data == data, bool(valid & data)
        case "one":
            winners = (valid & data).bit_count()
            settled = (valid | dead) & data == data
            return winners > 1 or dead & data == data, winners == 1 and settled
        case "not":
            return bool(valid & data), bool(dead & data)
        case "dep":
            key, part = data
            if key in seen:
                return bool(dead & part), bool(valid & part)
            return False, final or bool(valid & part)
    condition, then, other = data
    then_dead, other_dead = bool(dead & then), bool(dead & other)
    then_holds, other_holds = not then or bool(valid & then), not other or bool(valid & other)
    if valid & condition:
        return then_dead, then_holds
    if dead & condition:
        return other_dead, other_holds
    return then_dead and other_dead, then_holds and other_holds


def cut_cycles(number: int, node_of: Callable[[int], Node]) -> list[int] | None:
    """The nodes that look at the same place as `number`, operands first; None = too many, or they go in circles."""
    order: list[int] = []
    state: dict[int, int] = {}  # 1 = on the path, 2 = done
    path: list[tuple[int, list[int]]] = []

    def enter(each: int) -> None:
        state[each] = 1
        path.append((each, operands(node_of(each))))

    enter(number)
    while path:
        each, rest = path[-1]
        if not rest:
            path.pop()
            state[each] = 2
            order.append(each)
            continue
        following = rest.pop()
        if state.get(following) == 1 or len(state) > MAX_NODES:
            return None
        if following not in state:
            enter(following)
    return order


def operands(node: Node) -> list[int]:
    """Numbers of the nodes in a node's formulas."""
    found: list[int] = []
    for op, _, data in node.formulas:
        if op in ("all", "any", "one"):
            found += data
        elif op == "not":
            found.append(data)
        elif op == "dep":
            found.append(data[1])
        else:
            found += [part for part in data if part >= 0]
    return found


__all__ = ["STRING", "Link", "Plan", "cut_cycles"]
