"""Kinds of small functions that training tasks are built from: source, wordings of the intent, and test inputs.

Must not: contain a bug; bugs are injected by `bugs`. No loops that could become endless when broken (no `while`).
Invariant: the wording states every constant and boundary, so that the right code can be inferred from it.

In sources and wordings `$f` is the function, `$a` `$b` its arguments, `$v` `$w` local names, `$K` `$M` constants.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Inputs = Callable[[random.Random, int, int], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Kind:
    """inputs(rng, K, M) -> arguments of one call."""

    name: str
    args: str
    body: str
    docs: tuple[str, ...]
    inputs: Inputs

    @property
    def lines(self) -> list[str]:
        return self.body.split("\n")


def ints(r: random.Random, low: int = -9, high: int = 20, size: tuple[int, int] = (2, 5)) -> list[int]:
    return [r.randint(low, high) for _ in range(r.randint(*size))]


def word(r: random.Random) -> str:
    return "".join(r.choice("abcdeiklmnoprstuvwz") for _ in range(r.randint(2, 5)))


def words(r: random.Random) -> list[str]:
    return [word(r) for _ in range(r.randint(2, 4))]


def near(r: random.Random, k: int) -> int:
    return k + r.choice((-2, -1, 0, 0, 1, 2))


def table(r: random.Random) -> dict[str, int]:
    return {word(r): r.randint(1, 20) for _ in range(r.randint(2, 3))}


def _k(name: str, args: str, body: str, docs: tuple[str, ...], inputs: Inputs) -> Kind:
    return Kind(name, args, body, docs, inputs)


# One kind per few lines reads better than one value per line.
# fmt: off
KINDS: tuple[Kind, ...] = (
    _k("total", "$a", "$v = 0\nfor $w in $a:\n    $v += $w\nreturn $v",
       ("Return the sum of $a.", "Add up all numbers in $a.", "Sum over $a, starting from 0."),
       lambda r, k, m: (ints(r),)),
    _k("product", "$a", "$v = 1\nfor $w in $a:\n    $v *= $w\nreturn $v",
       ("Return the product of $a.", "Multiply all numbers in $a.", "Product over $a, starting from 1."),
       lambda r, k, m: (ints(r, 1, 6),)),
    _k("count_over", "$a", "$v = 0\nfor $w in $a:\n    if $w > $K:\n        $v += 1\nreturn $v",
       ("Count the numbers in $a greater than $K.", "How many of $a are above $K?"),
       lambda r, k, m: ([near(r, k) for _ in range(5)],)),
    _k("count_least", "$a", "$v = 0\nfor $w in $a:\n    if $w >= $K:\n        $v += 1\nreturn $v",
       ("Count the numbers in $a that are at least $K.", "How many of $a are $K or more?"),
       lambda r, k, m: ([near(r, k) for _ in range(5)],)),
    _k("keep_below", "$a", "return [$w for $w in $a if $w < $K]",
       ("Keep the numbers of $a less than $K.", "Return those of $a below $K."),
       lambda r, k, m: ([near(r, k) for _ in range(5)],)),
    _k("keep_most", "$a", "return [$w for $w in $a if $w <= $K]",
       ("Keep the numbers of $a that are at most $K.", "Return those of $a not above $K."),
       lambda r, k, m: ([near(r, k) for _ in range(5)],)),
    _k("evens", "$a", "return [$w for $w in $a if $w % 2 == 0]",
       ("Return the even numbers of $a.", "Keep only what is even in $a."), lambda r, k, m: (ints(r, 0, 20),)),
    _k("odds", "$a", "$v = []\nfor $w in $a:\n    if $w % 2 == 1:\n        $v.append($w)\nreturn $v",
       ("Return the odd numbers of $a.", "Collect what is odd in $a."), lambda r, k, m: (ints(r, 0, 20),)),
    _k("scale", "$a", "return [$w * $K for $w in $a]",
       ("Multiply every number in $a by $K.", "Return $a with each number times $K."),
       lambda r, k, m: (ints(r),)),
    _k("shift", "$a", "$v = []\nfor $w in $a:\n    $v.append($w + $K)\nreturn $v",
       ("Add $K to every number in $a.", "Return $a with each number plus $K."), lambda r, k, m: (ints(r),)),
    _k("largest", "$a", "$v = $a[0]\nfor $w in $a:\n    if $w > $v:\n        $v = $w\nreturn $v",
       ("Return the largest number in $a.", "Find the maximum of $a."), lambda r, k, m: (ints(r),)),
    _k("smallest", "$a", "$v = $a[0]\nfor $w in $a:\n    if $w < $v:\n        $v = $w\nreturn $v",
       ("Return the smallest number in $a.", "Find the minimum of $a."), lambda r, k, m: (ints(r),)),
    _k("span", "$a", "return max($a) - min($a)",
       ("Return the largest minus the smallest of $a.", "Difference of the maximum and minimum of $a."),
       lambda r, k, m: (ints(r),)),
    _k("mean", "$a", "return sum($a) / len($a)",
       ("Return the mean of $a.", "Average of $a: the sum divided by the count."), lambda r, k, m: (ints(r),)),
    _k("first_part", "$a", "return $a[:$K]",
       ("Return the first $K items of $a.", "The leading $K items of $a."),
       lambda r, k, m: (ints(r, 0, 9, (k + 2, k + 4)),)),
    _k("skip_part", "$a", "return $a[$K:]",
       ("Return $a without its first $K items.", "Skip $K items of $a and return the rest."),
       lambda r, k, m: (ints(r, 0, 9, (k + 2, k + 4)),)),
    _k("last_item", "$a", "return $a[-1]", ("Return the last item of $a.", "The final item of $a."),
       lambda r, k, m: (ints(r),)),
    _k("first_item", "$a", "return $a[0]", ("Return the first item of $a.", "The leading item of $a."),
       lambda r, k, m: (ints(r),)),
    _k("reverse", "$a", "return $a[::-1]", ("Return $a reversed.", "Return $a in reverse order."),
       lambda r, k, m: (ints(r),)),
    _k("add", "$a, $b", "return $a + $b", ("Return $a plus $b.", "The sum of $a and $b."),
       lambda r, k, m: (r.randint(1, 20), r.randint(1, 20))),
    _k("subtract", "$a, $b", "$v = $a - $b\nreturn $v", ("Return $a minus $b.", "Subtract $b from $a."),
       lambda r, k, m: (r.randint(1, 20), r.randint(1, 20))),
    _k("times", "$a, $b", "$v = $a * $b\nreturn $v", ("Return $a times $b.", "Multiply $a by $b."),
       lambda r, k, m: (r.randint(2, 12), r.randint(2, 12))),
    _k("price", "$a, $b", "$v = $a * $b\nreturn $v + $K",
       ("Multiply $a by $b, then add $K.", "Return $a times $b plus a fee of $K."),
       lambda r, k, m: (r.randint(2, 12), r.randint(2, 12))),
    _k("rebate", "$a, $b", "$v = $a + $b\nreturn $v - $K",
       ("Add $a and $b, then subtract $K.", "Return $a plus $b less a rebate of $K."),
       lambda r, k, m: (r.randint(2, 30), r.randint(2, 30))),
    _k("bigger", "$a, $b", "if $a > $b:\n    return $a\nreturn $b",
       ("Return the bigger of $a and $b.", "The larger one of $a and $b."),
       lambda r, k, m: (r.randint(1, 20), r.randint(1, 20))),
    _k("lesser", "$a, $b", "if $a < $b:\n    return $a\nreturn $b",
       ("Return the smaller of $a and $b.", "The lesser one of $a and $b."),
       lambda r, k, m: (r.randint(1, 20), r.randint(1, 20))),
    _k("distance", "$a, $b", "$v = $a - $b\nif $v < 0:\n    return -$v\nreturn $v",
       ("Return the distance between $a and $b, never negative.", "Absolute difference of $a and $b."),
       lambda r, k, m: (r.randint(1, 20), r.randint(1, 20))),
    _k("is_positive", "$a", "return $a > 0", ("True if $a is greater than 0.", "Is $a positive (above 0)?"),
       lambda r, k, m: (r.randint(-2, 2),)),
    _k("within", "$a", "return $K <= $a <= $M",
       ("True if $a is from $K to $M, both included.", "Is $a at least $K and at most $M?"),
       lambda r, k, m: (near(r, r.choice((k, m))),)),
    _k("outside", "$a", "return $a < $K or $a > $M",
       ("True if $a is less than $K or greater than $M.", "Is $a below $K or above $M?"),
       lambda r, k, m: (near(r, r.choice((k, m))),)),
    _k("both", "$a, $b", "return $a > $K and $b > $K",
       ("True if both $a and $b are greater than $K.", "Are $a and also $b above $K?"),
       lambda r, k, m: (near(r, k), near(r, k))),
    _k("either", "$a, $b", "return $a == $K or $b == $K",
       ("True if $a or $b equals $K.", "Is at least one of $a and $b equal to $K?"),
       lambda r, k, m: (near(r, k), near(r, k))),
    _k("limit", "$a", "if $a > $K:\n    return $K\nreturn $a",
       ("Return $a, but never more than $K.", "Limit $a to at most $K."), lambda r, k, m: (near(r, k),)),
    _k("floor_at", "$a", "return max($a, $K)",
       ("Return $a, but never less than $K.", "Raise $a to at least $K."), lambda r, k, m: (near(r, k),)),
    _k("cap_at", "$a", "return min($a, $K)",
       ("Return $a, but no more than $K.", "Cut $a down to at most $K."), lambda r, k, m: (near(r, k),)),
    _k("upto", "$a", "$v = 0\nfor $w in range(1, $a + 1):\n    $v += $w\nreturn $v",
       ("Sum the numbers from 1 to $a, included.", "Add 1, 2, 3 and so on up to and including $a."),
       lambda r, k, m: (r.randint(1, 8),)),
    _k("squares", "$a", "return [$w * $w for $w in range($a)]",
       ("Return the squares of the numbers from 0 up to but without $a.", "Squares of 0, 1, 2 and so on, $a of them."),
       lambda r, k, m: (r.randint(2, 5),)),
    _k("square_sum", "$a", "$v = 0\nfor $w in $a:\n    $v += $w * $w\nreturn $v",
       ("Return the sum of the squares of $a.", "Square each number in $a and add them up."),
       lambda r, k, m: (ints(r, 0, 6),)),
    _k("shout", "$a", "return $a.upper()", ("Return $a in upper case.", "Turn $a into capitals (upper case)."),
       lambda r, k, m: (word(r),)),
    _k("quiet", "$a", "return $a.strip().lower()",
       ("Strip $a and return it in lower case.", "Return $a stripped and in lower case."),
       lambda r, k, m: (f" {word(r).title()} ",)),
    _k("joined", "$a", "return '-'.join($a)",
       ("Join the strings of $a with a dash '-'.", "Return $a joined by '-'."), lambda r, k, m: (words(r),)),
    _k("greet", "$a", "$v = 'hello ' + $a\nreturn $v",
       ("Return 'hello ' followed by $a.", "Greet $a with 'hello '."), lambda r, k, m: (word(r),)),
    _k("suffix", "$a", "return $a.endswith('$T')",
       ("True if $a ends with '$T'.", "Does $a end with '$T'?"),
       lambda r, k, m: (word(r) + r.choice(("", ".py", ".txt", ".md")),)),
    _k("prefix", "$a", "return $a.startswith('$T')",
       ("True if $a starts with '$T'.", "Does $a start with '$T'?"),
       lambda r, k, m: (r.choice(("", ".py", ".txt", ".md")) + word(r),)),
    _k("lengths", "$a", "return [len($w) for $w in $a]",
       ("Return the length of each string in $a.", "The lengths of the strings of $a."), lambda r, k, m: (words(r),)),
    _k("longer", "$a, $b", "if len($a) >= len($b):\n    return $a\nreturn $b",
       ("Return the longer of $a and $b; $a if they are equally long.", "The longer string; on a tie it is $a."),
       lambda r, k, m: (word(r), word(r))),
    _k("lookup", "$a, $b", "return $a.get($b, 0)",
       ("Look up $b in $a; 0 if it is missing.", "Return the value of $b in $a, or 0."),
       lambda r, k, m: (lambda t: (t, r.choice([*t, "none"])))(table(r))),
    _k("values_sum", "$a", "$v = 0\nfor $w in $a.values():\n    $v += $w\nreturn $v",
       ("Add up the values of the dict $a.", "Sum of all values in $a."), lambda r, k, m: (table(r),)),
    _k("key_list", "$a", "return sorted($a.keys())",
       ("Return the sorted keys of the dict $a.", "All keys of $a in sorted order."), lambda r, k, m: (table(r),)),
    _k("best_key", "$a", "return max($a, key=$a.get)",
       ("Return the key of $a with the greatest value.", "Which key of $a has the maximum value?"),
       lambda r, k, m: (table(r),)),
    _k("tally", "$a", "$v = {}\nfor $w in $a:\n    $v[$w] = $v.get($w, 0) + 1\nreturn $v",
       ("Count how often each item occurs in $a.", "Map each item of $a to its number of occurrences."),
       lambda r, k, m: ([r.choice("abc") for _ in range(4)],)),
    _k("contains", "$a, $b", "for $w in $a:\n    if $w == $b:\n        return True\nreturn False",
       ("True if $b occurs in $a.", "Is $b one of the items of $a?"),
       lambda r, k, m: (lambda xs: (xs, r.choice([*xs, 99])))(ints(r))),
    _k("all_over", "$a", "for $w in $a:\n    if $w <= $K:\n        return False\nreturn True",
       ("True if all numbers in $a are greater than $K.", "Is every number of $a above $K?"),
       lambda r, k, m: ([k + r.randint(0, 3) for _ in range(3)],)),
    _k("pairs", "$a, $b", "return list(zip($a, $b))",
       ("Pair the items of $a with those of $b.", "Zip $a and $b into a list of pairs."),
       lambda r, k, m: (ints(r), ints(r))),
    _k("dot", "$a, $b", "$v = 0\nfor $w, $x in zip($a, $b):\n    $v += $w * $x\nreturn $v",
       ("Multiply $a and $b item by item and add up the products.", "Dot product of $a and $b."),
       lambda r, k, m: (ints(r, 0, 6, (3, 3)), ints(r, 0, 6, (3, 3)))),
    _k("swap", "$a, $b", "return ($b, $a)", ("Return the pair of $b and then $a.", "Swap: $b first, $a second."),
       lambda r, k, m: (r.randint(1, 9), r.randint(10, 20))),
    _k("minutes", "$a, $b", "return $a * 60 + $b",
       ("Minutes in $a hours and $b minutes; an hour has 60 minutes.",
        "Turn $a hours and $b minutes into minutes (60 per hour)."),
       lambda r, k, m: (r.randint(1, 9), r.randint(0, 59))),
    _k("wholes", "$a, $b", "return $a // $b",
       ("How many whole times $b goes into $a.", "Floor division of $a by $b."),
       lambda r, k, m: (r.randint(10, 40), r.randint(2, 7))),
    _k("rest", "$a, $b", "return $a % $b",
       ("Remainder of $a divided by $b.", "What is left when $a is divided by $b."),
       lambda r, k, m: (r.randint(10, 40), r.randint(2, 7))),
    _k("divisible", "$a", "return $a % $K == 0",
       ("True if $a can be divided by $K without remainder.", "Is $a a multiple of $K?"),
       lambda r, k, m: (k * r.randint(1, 5) + r.choice((0, 0, 1)),)),
    _k("unique", "$a", "$v = []\nfor $w in $a:\n    if $w not in $v:\n        $v.append($w)\nreturn $v",
       ("Drop repeated items of $a, keep the order.", "The different items of $a in order."),
       lambda r, k, m: ([r.randint(1, 3) for _ in range(5)],)),
    _k("ascending", "$a", "return sorted($a)", ("Return $a sorted upwards.", "Sort $a, smallest first."),
       lambda r, k, m: (ints(r),)),
    _k("descending", "$a", "return sorted($a, reverse=True)",
       ("Return $a sorted downwards.", "Sort $a, largest first."), lambda r, k, m: (ints(r),)),
    _k("half", "$a", "return $a // 2", ("Half of $a, rounded down.", "Floor division of $a by 2."),
       lambda r, k, m: (r.randint(3, 40),)),
    _k("groups", "$a", "$v = $a // $K\nreturn $v",
       ("How many whole times $K goes into $a.", "Floor division of $a by $K."),
       lambda r, k, m: (r.randint(10, 60),)),
    _k("lower_of", "$a, $b", "return min($a, $b)",
       ("Return the minimum of $a and $b.", "The smaller one of $a and $b."),
       lambda r, k, m: (r.randint(1, 20), r.randint(1, 20))),
    _k("higher_of", "$a, $b", "$v = max($a, $b)\nreturn $v",
       ("Return the maximum of $a and $b.", "The larger one of $a and $b."),
       lambda r, k, m: (r.randint(1, 20), r.randint(1, 20))),
    _k("is_negative", "$a", "return $a < 0", ("True if $a is less than 0.", "Is $a negative (below 0)?"),
       lambda r, k, m: (r.randint(-2, 2),)),
    _k("is_over", "$a", "return $a > $K", ("True if $a is greater than $K.", "Is $a above $K?"),
       lambda r, k, m: (near(r, k),)),
    _k("is_most", "$a", "return $a <= $K", ("True if $a is at most $K.", "Is $a not above $K?"),
       lambda r, k, m: (near(r, k),)),
    _k("is_least", "$a", "return $a >= $K", ("True if $a is at least $K.", "Is $a $K or more?"),
       lambda r, k, m: (near(r, k),)),
    _k("share", "$a, $b", "return $a / $b", ("Return $a divided by $b.", "Divide $a by $b."),
       lambda r, k, m: (r.randint(2, 40), r.randint(2, 8))),
    _k("count_below", "$a", "$v = 0\nfor $w in $a:\n    if $w < $K:\n        $v += 1\nreturn $v",
       ("Count the numbers in $a less than $K.", "How many of $a are below $K?"),
       lambda r, k, m: ([near(r, k) for _ in range(5)],)),
    _k("all_least", "$a", "for $w in $a:\n    if $w < $K:\n        return False\nreturn True",
       ("True if all numbers in $a are at least $K.", "Is every number of $a $K or more?"),
       lambda r, k, m: ([k + r.randint(-1, 3) for _ in range(3)],)),
)
# fmt: on
