"""Legitimate text that repeats: what a coding agent writes, quotes or is shown, made by rule.

Must not: hold third-party text; licences and logs are imitated.
Invariant: (name, seed) decides every character. Sizes are what such things have in a response: 2 to 20 kB.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable

_NAMES = "alpha beta gamma delta lambda sigma omega kappa theta north south river stone cloud amber maple cedar".split()
_SYLLABLES = "ba co di fe gu ha jo ki lu ma no pe ra si to vu we xa yo zi".split()


def made(name: str, seed: int) -> str:
    """One document."""
    return TRAPS[name](random.Random(f"{name} {seed}"))


def _word(draw: random.Random) -> str:
    return "-".join(draw.sample(_NAMES, draw.choice((1, 1, 2))))


def _digest(draw: random.Random, size: int = 48) -> str:
    return base64.b64encode(draw.randbytes(size)).decode()


def _lockfile(draw: random.Random) -> str:
    packages = {}
    for i in range(draw.randrange(20, 60)):
        name = f"{_word(draw)}-{i}"
        version = f"{draw.randrange(9)}.{draw.randrange(20)}.{draw.randrange(9)}"
        packages[f"node_modules/{name}"] = {
            "version": version,
            "resolved": f"https://registry.example.org/{name}/-/{name}-{version}.tgz",
            "integrity": f"sha512-{_digest(draw, 64)}",
            "license": draw.choice(("MIT", "MIT", "ISC")),
            "engines": {"node": ">=" + draw.choice(("8", "10", "12"))},
        }
    return json.dumps({"lockfileVersion": 3, "packages": packages}, indent=2)


def _sql(draw: random.Random) -> str:
    table = _word(draw).replace("-", "_")
    rows = range(1, draw.randrange(40, 150))
    return "\n".join(
        f"INSERT INTO {table} (id, name, city, price) VALUES "
        f"({i}, '{_word(draw)}', '{draw.choice(_NAMES)}', {draw.randrange(1, 9999) / 100:.2f});"
        for i in rows
    )


def _progress(draw: random.Random) -> str:
    """As a terminal shows it, a line per step."""
    total, speed, lines = draw.randrange(20, 120), draw.random() + 1, []
    for i in range(total + 1):
        done = i * 30 // total
        lines.append(
            f"{100 * i // total:3d}%|{'█' * done}{' ' * (30 - done)}| {i}/{total} [00:{i % 60:02d}, {speed:.2f}it/s]"
        )
    return "\n".join(lines)


def _hexdump(draw: random.Random) -> str:
    data = draw.randbytes(256) + bytes(draw.randrange(200, 1500)) + draw.randbytes(256)
    lines = []
    for i in range(0, len(data), 16):
        row = data[i : i + 16]
        shown = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{i:08x}  {row.hex(' ')}  |{shown}|")
    return "\n".join(lines)


def _zeros(draw: random.Random) -> str:
    data = draw.randbytes(60) + bytes(draw.randrange(600, 3000)) + draw.randbytes(60)
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def _tiles(draw: random.Random) -> str:
    width, height = draw.choice((16, 24, 32)), draw.randrange(12, 24)
    rows = [
        [draw.choice((1, 2, 3)) if draw.random() < 0.2 or i in (0, width - 1) else 0 for i in range(width)]
        for _ in range(height)
    ]
    return "level = [\n" + "".join(f"    {row},\n" for row in rows) + "]\n"


def _truth(draw: random.Random) -> str:
    names = [name.upper()[0] + str(i) for i, name in enumerate(draw.sample(_NAMES, draw.choice((5, 6, 7))))]
    lines = ["| " + " | ".join([*names, "result"]) + " |", "|" + "---|" * (len(names) + 1)]
    for i in range(1 << len(names)):
        bits = [i >> k & 1 for k in reversed(range(len(names)))]
        lines.append("| " + " | ".join(map(str, [*bits, sum(bits) % 2])) + " |")
    return "\n".join(lines)


_LICENCE = (
    "# Permission to run, change and pass on this program is given to everybody, free of charge, as long as this\n"
    "# notice stays with every copy. The program comes as it is. Nobody who took part in it promises that it fits\n"
    "# a purpose, and nobody pays for damage that comes of its use, however it came about.\n"
)


def _licences(draw: random.Random) -> str:
    """Several small files in one answer, each with the same header."""
    files = []
    for i in range(draw.randrange(4, 8)):
        words = [draw.choice(_NAMES) for _ in range(12)]
        body = "".join(
            f"def {words[k]}_{words[k + 1]}({words[k + 2]}):\n"
            f"    return {words[k + 3]}({words[k + 2]}, {draw.randrange(99)})\n\n\n"
            for k in range(8)
        )
        files.append(f"# Copyright 20{10 + i} {_word(draw)} and others\n#\n{_LICENCE}\nimport {words[0]}\n\n\n{body}")
    return "\n".join(files)


def _made_up(draw: random.Random) -> str:
    return "".join(draw.choice(_SYLLABLES) for _ in range(draw.choice((1, 2, 2, 3))))


def _terms(draw: random.Random) -> str:
    """A licence's worth of words, in lines."""
    words = [_made_up(draw) for _ in range(draw.randrange(200, 300))]
    marked = [word + ("." if i % 17 == 16 else "," if i % 7 == 6 else "") for i, word in enumerate(words)]
    return "\n".join(" ".join(marked[i : i + 12]) for i in range(0, len(marked), 12)) + "\n"


def _collection(draw: random.Random) -> str:
    """The licences of many parts, most of them the same one."""
    usual, parts = _terms(draw), []
    for i in range(draw.randrange(5, 9)):
        holder = " ".join(_made_up(draw).title() for _ in range(draw.choice((2, 3, 5))))
        terms = usual if i < 4 or draw.random() < 0.7 else _terms(draw)
        parts.append(f"- {_made_up(draw)}-{_made_up(draw)}\n\nCopyright (c) 20{10 + i} {holder}\n\n{terms}")
    return "\n\n".join(parts)


def _pytest(draw: random.Random) -> str:
    count = draw.randrange(40, 160)
    lines = [f"collected {count} items", ""]
    for i in range(count):
        name = "_".join(draw.sample(_NAMES, 3))
        outcome = "FAILED" if draw.random() < 0.05 else "PASSED"
        lines.append(f"tests/test_{draw.choice(_NAMES)}.py::test_{name}[{i}] {outcome} [{100 * (i + 1) // count:3d}%]")
    return "\n".join([*lines, "", f"===== {count} passed in {draw.random():.2f}s ====="])


def _parametrised(draw: random.Random) -> str:
    """One test, many cases: only the number changes."""
    count, name = draw.randrange(20, 60), "_".join(draw.sample(_NAMES, 3))
    lines = (f"tests/test_it.py::test_{name}[{i}] PASSED [{100 * (i + 1) // count:3d}%]" for i in range(count))
    return "\n".join(lines)


def _rewritten(draw: random.Random) -> str:
    """Shown, then written again with one line changed."""
    lines = [f"    {draw.choice(_NAMES)} = {_word(draw)!r}  # {_word(draw)} {draw.randrange(999)}" for _ in range(80)]
    changed = list(lines)
    changed[draw.randrange(80)] = "    changed = True"
    return "class Old:\n" + "\n".join(lines) + "\n\n\nclass Old:\n" + "\n".join(changed) + "\n"


def _table(draw: random.Random) -> str:
    lines = ["| name | city | count | price | state |", "|---|---|---|---|---|"]
    for _ in range(draw.randrange(25, 90)):
        state = draw.choice(("open", "open", "closed"))
        lines.append(
            f"| {_word(draw)} | {draw.choice(_NAMES)} | {draw.randrange(100)} | {draw.random():.2f} | {state} |"
        )
    return "\n".join(lines)


def _numbered(draw: random.Random) -> str:
    """A long list of steps, each its own."""
    return "\n".join(
        f"{i}. Open the {_word(draw)} file, find {draw.choice(_NAMES)}, and set it to {draw.randrange(99)}."
        for i in range(1, draw.randrange(20, 60))
    )


TRAPS: dict[str, Callable[[random.Random], str]] = {
    "lockfile": _lockfile,
    "SQL inserts": _sql,
    "progress bars": _progress,
    "hex dump": _hexdump,
    "base64 of zeros": _zeros,
    "tile map": _tiles,
    "truth table": _truth,
    "licence headers": _licences,
    "licence collection": _collection,
    "pytest output": _pytest,
    "parametrised test": _parametrised,
    "file rewritten": _rewritten,
    "Markdown table": _table,
    "numbered steps": _numbered,
}
