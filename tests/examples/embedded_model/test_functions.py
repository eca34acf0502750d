"""Every kind of function against a second, independent statement of what it is to do."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from examples.embedded_model.functions import KINDS, Kind

ENDING = ".txt"
MEANING: dict[str, Callable[..., Any]] = {
    "total": lambda k, m, a: sum(a),
    "product": lambda k, m, a: math.prod(a),
    "count_over": lambda k, m, a: len([x for x in a if x > k]),
    "count_least": lambda k, m, a: len([x for x in a if not x < k]),
    "keep_below": lambda k, m, a: list(filter(lambda x: x < k, a)),
    "keep_most": lambda k, m, a: list(filter(lambda x: not x > k, a)),
    "evens": lambda k, m, a: list(filter(lambda x: not x & 1, a)),
    "odds": lambda k, m, a: list(filter(lambda x: x & 1, a)),
    "scale": lambda k, m, a: list(map(lambda x: k * x, a)),
    "shift": lambda k, m, a: list(map(lambda x: k + x, a)),
    "largest": lambda k, m, a: sorted(a)[-1],
    "smallest": lambda k, m, a: sorted(a)[0],
    "span": lambda k, m, a: sorted(a)[-1] - sorted(a)[0],
    "mean": lambda k, m, a: sum(a) / len(a),
    "first_part": lambda k, m, a: [x for i, x in enumerate(a) if i < k],
    "skip_part": lambda k, m, a: [x for i, x in enumerate(a) if i >= k],
    "last_item": lambda k, m, a: a[len(a) - 1],
    "first_item": lambda k, m, a: next(iter(a)),
    "reverse": lambda k, m, a: list(reversed(a)),
    "add": lambda k, m, a, b: sum((a, b)),
    "subtract": lambda k, m, a, b: -b + a,
    "times": lambda k, m, a, b: math.prod((a, b)),
    "price": lambda k, m, a, b: k + b * a,
    "rebate": lambda k, m, a, b: -k + b + a,
    "bigger": lambda k, m, a, b: max(a, b),
    "lesser": lambda k, m, a, b: min(a, b),
    "distance": lambda k, m, a, b: abs(a - b),
    "is_positive": lambda k, m, a: a >= 1,
    "within": lambda k, m, a: a in range(k, m + 1),
    "outside": lambda k, m, a: a not in range(k, m + 1),
    "both": lambda k, m, a, b: min(a, b) > k,
    "either": lambda k, m, a, b: k in (a, b),
    "limit": lambda k, m, a: min(a, k),
    "floor_at": lambda k, m, a: a if a > k else k,
    "cap_at": lambda k, m, a: a if a < k else k,
    "upto": lambda k, m, a: a * (a + 1) // 2,
    "squares": lambda k, m, a: [x**2 for x in range(0, a)],
    "square_sum": lambda k, m, a: sum(x**2 for x in a),
    "shout": lambda k, m, a: "".join(map(str.upper, a)),
    "quiet": lambda k, m, a: a.lower().strip(),
    "joined": lambda k, m, a: str.join("-", a),
    "greet": lambda k, m, a: f"hello {a}",
    "suffix": lambda k, m, a: a[-len(ENDING) :] == ENDING,
    "prefix": lambda k, m, a: a[: len(ENDING)] == ENDING,
    "lengths": lambda k, m, a: list(map(len, a)),
    "longer": lambda k, m, a, b: max(a, b, key=len),
    "lookup": lambda k, m, a, b: [*(v for key, v in a.items() if key == b), 0][0],
    "values_sum": lambda k, m, a: sum(a.values()),
    "key_list": lambda k, m, a: sorted(a),
    "best_key": lambda k, m, a: next(key for key in a if a[key] == max(a.values())),
    "tally": lambda k, m, a: dict(Counter(a)),
    "contains": lambda k, m, a, b: b in a,
    "all_over": lambda k, m, a: min(a) > k,
    "pairs": lambda k, m, a, b: [(a[i], b[i]) for i in range(min(len(a), len(b)))],
    "dot": lambda k, m, a, b: sum(a[i] * b[i] for i in range(3)),
    "swap": lambda k, m, a, b: tuple(reversed((a, b))),
    "minutes": lambda k, m, a, b: b + 60 * a,
    "wholes": lambda k, m, a, b: divmod(a, b)[0],
    "rest": lambda k, m, a, b: divmod(a, b)[1],
    "divisible": lambda k, m, a: divmod(a, k)[1] == 0,
    "unique": lambda k, m, a: list(dict.fromkeys(a)),
    "ascending": lambda k, m, a: sorted(a),
    "descending": lambda k, m, a: list(reversed(sorted(a))),
    "half": lambda k, m, a: a >> 1,
    "groups": lambda k, m, a: divmod(a, k)[0],
    "lower_of": lambda k, m, a, b: sorted((a, b))[0],
    "higher_of": lambda k, m, a, b: sorted((a, b))[1],
    "is_negative": lambda k, m, a: a <= -1,
    "is_over": lambda k, m, a: a not in range(k - 10, k + 1),
    "is_most": lambda k, m, a: a in range(k - 10, k + 1),
    "is_least": lambda k, m, a: a in range(k, k + 10),
    "share": lambda k, m, a, b: float(Fraction(a, b)),
    "count_below": lambda k, m, a: len([x for x in a if not x >= k]),
    "all_least": lambda k, m, a: min(a) >= k,
}


def callable_of(kind: Kind, k: int, m: int) -> Callable[..., Any]:
    text = f"def $f({kind.args}):\n" + "\n".join("    " + line for line in kind.lines)
    for mark, value in (("f", "f"), ("a", "a"), ("b", "b"), ("v", "v"), ("w", "w"), ("x", "x")):
        text = text.replace(f"${mark}", value)
    text = text.replace("$K", str(k)).replace("$M", str(m)).replace("$T", ENDING)
    assert "$" not in text
    scope: dict[str, Any] = {}
    exec(text, scope)
    function: Callable[..., Any] = scope["f"]
    return function


def test_every_kind_has_a_meaning_here_and_a_name_of_its_own() -> None:
    assert [kind.name for kind in KINDS] == list(MEANING)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_code_does_what_it_is_for(kind: Kind) -> None:
    rng = random.Random(kind.name)
    for _ in range(60):
        k = rng.randint(2, 12)
        m = k + rng.randint(3, 12)
        arguments = kind.inputs(rng, k, m)
        assert callable_of(kind, k, m)(*arguments) == MEANING[kind.name](k, m, *arguments)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_inputs_tell_more_than_one_answer(kind: Kind) -> None:
    """A test whose expected value never changes would not show a bug."""
    rng = random.Random(kind.name)
    function = callable_of(kind, 5, 9)
    assert len({repr(function(*kind.inputs(rng, 5, 9))) for _ in range(60)}) > 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_wording_states_every_constant(kind: Kind) -> None:
    for doc in kind.docs:
        for mark in ("$K", "$M", "$T"):
            assert (mark in doc) == (mark in kind.body), doc
        assert "$a" in doc or kind.name == "longer"
        assert set(re.findall(r"\d\d+", kind.body)) <= set(re.findall(r"\d\d+", doc))


def test_nothing_can_become_endless() -> None:
    assert not [kind.name for kind in KINDS if "while" in kind.body]
