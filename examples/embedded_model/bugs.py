"""Injects one bug into one line of a correct function: operators, bounds, names, constants, returns, methods.

Must not: decide whether a bug shows; the caller runs the tests of both versions.
Invariant: a bug changes exactly one line, and the correct line can be inferred from the intent and the other lines.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from keyword import iskeyword

SWAPS: tuple[tuple[str, str, str], ...] = (
    ("operator", r" \+ ", " - "),
    ("operator", r" \+= ", " -= "),
    ("operator", r" \* ", " + "),
    ("operator", r" \*= ", " += "),
    ("operator", r" - ", " + "),
    ("operator", r" / ", " * "),
    ("operator", r" // ", " / "),
    ("operator", r" % ", " // "),
    ("operator", r" \+ ", " * "),
    ("comparison", r" > ", " < "),
    ("comparison", r" > ", " >= "),
    ("comparison", r" >= ", " > "),
    ("comparison", r" < ", " > "),
    ("comparison", r" < ", " <= "),
    ("comparison", r" <= ", " < "),
    ("comparison", r" >= ", " <= "),
    ("comparison", r" == ", " != "),
    ("condition", r" and ", " or "),
    ("condition", r" or ", " and "),
    ("condition", r" not in ", " in "),
    ("constant", r"return True", "return False"),
    ("constant", r"return False", "return True"),
    ("constant", r"reverse=True", "reverse=False"),
    ("method", r"\bmax\(", "min("),
    ("method", r"\bmin\(", "max("),
    ("method", r"\.upper\(\)", ".lower()"),
    ("method", r"\.lower\(\)", ".upper()"),
    ("method", r"\.startswith\(", ".endswith("),
    ("method", r"\.endswith\(", ".startswith("),
    ("method", r"\.values\(\)", ".keys()"),
    ("method", r"\.keys\(\)", ".values()"),
    ("method", r"\.append\(", ".extend("),
    ("method", r"\.strip\(\)", ".title()"),
    ("index", r"\[-1\]", "[0]"),
    ("index", r"\[0\]", "[-1]"),
    ("index", r"\[::-1\]", "[::1]"),
    ("index", r"\[:(\d+)\]", r"[\1:]"),
    ("index", r"\[(\d+):\]", r"[:\1]"),
    ("off_by_one", r"range\(1, (\w+) \+ 1\)", r"range(1, \1)"),
    ("off_by_one", r"range\((\w+)\)", r"range(1, \1)"),
    ("return", r"^(\s*)return (?=.*\w)", r"\1"),
)

KEYWORDS = frozenset(
    "return for in if not or and True False range len max min sum sorted zip list key get append reverse upper lower "
    "strip startswith endswith join values keys hello py txt md".split()
)


@dataclass(frozen=True, slots=True)
class Bug:
    """line: index into the lines of the body; wrong: that line with the bug."""

    kind: str
    line: int
    wrong: str


def candidates(lines: list[str], names: list[str], rng: random.Random) -> list[Bug]:
    """All single-line bugs for a body. names: the function's arguments and local names."""
    found = [
        Bug(kind, index, wrong)
        for index, line in enumerate(lines)
        for kind, pattern, replacement in SWAPS
        if (wrong := re.sub(pattern, replacement, line, count=1)) != line
    ]
    for index, line in enumerate(lines):
        found += [Bug("constant", index, wrong) for wrong in _constants(line, rng)]
        for match in re.finditer(r"\b[a-z_]+\b", line):
            name = match.group()
            if name in KEYWORDS or name not in names or _binds(line, match.start()):
                continue
            before, after = line[: match.start()], line[match.end() :]
            found.append(Bug("misspelt", index, before + misspell(name, rng) + after))
            others = [n for n in names if n != name]
            # a list that grows while it is walked would never end
            if others and ".append(" not in line and not re.match(r"\s*\w+ [-+*]= ", line):
                found.append(Bug("swapped_name", index, before + rng.choice(others) + after))
    return found


def misspell(name: str, rng: random.Random) -> str:
    """One typing error: a letter dropped, doubled or exchanged with its neighbour."""
    at = rng.randrange(len(name) - 1) if len(name) > 1 else 0
    before, letter, after = name[:at], name[at], name[at + 1 :]
    ways = (before + after, before + letter + letter + after, before + after[:1] + letter + after[1:])
    picks = [w for w in ways if w != name and w.isidentifier() and not iskeyword(w)]
    return rng.choice(picks) if picks else name + name[-1]


def _constants(line: str, rng: random.Random) -> list[str]:
    wrong = []
    for match in re.finditer(r"(?<![\w.])\d+\b", line):
        value = int(match.group())
        change = value + rng.choice((1, 2, 10)) if value < 2 else value + rng.choice((-1, 1, 2, 10))
        wrong.append(line[: match.start()] + str(change) + line[match.end() :])
    return wrong


def _binds(line: str, start: int) -> bool:
    """Is the name at `start` being bound (a loop variable or the target of `=`), so that a typo would be two bugs?"""
    before, rest = line[:start].strip(), line[start:]
    if before.endswith("for") or (before.startswith("for") and " in" not in before):
        return True
    return not before and re.match(r"[a-z_]+ = ", rest) is not None
