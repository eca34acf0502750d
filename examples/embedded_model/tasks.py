"""Repair tasks: a small module with one injected bug, its tests, and the reference fix, all from a seed.

Must not: call a model or touch the disk.
Invariant: the tests pass with the reference fix and fail without it, and the faulty line occurs once in its file;
held-out tasks use names, seeds and (function, bug) combinations that no training task has.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Any

from examples.agent import protocol, runner
from examples.embedded_model.bugs import Bug, candidates
from examples.embedded_model.functions import KINDS, Kind
from examples.embedded_model.names import pick

HELD_OUT_SEED = 1_000_000_007
TEXTS = (".py", ".txt", ".md")


@dataclass(frozen=True, slots=True)
class Task:
    """files: name -> content with the bug; old/new: the faulty and the right line, stripped."""

    module: str
    files: dict[str, str]
    fixed: str
    old: str
    new: str
    function: str
    combination: str
    test_output: str
    other_lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """One function of a module, written out with names."""

    kind: Kind
    name: str
    names: list[str]
    header: list[str]
    body: list[str]
    constants: tuple[int, int]

    def source(self, bug: Bug | None = None, indent: str = "    ") -> str:
        body = list(self.body)
        if bug is not None:
            body[bug.line] = bug.wrong
        return "\n".join([*self.header, *(indent + line for line in body)])


def function_source(source: str, name: str) -> str:
    """The text of one top-level function, from `def` to its last line; functions have no blank lines within."""
    start = source.index(f"def {name}(")
    return source[start:].split("\n\n", 1)[0].rstrip("\n")


def is_held_out_combination(combination: str) -> bool:
    return zlib.crc32(combination.encode()) % 8 == 0


def make_task(seed: int, held_out: bool = False) -> Task:
    """The task of a seed; tries on until one holds the invariant (deterministic)."""
    rng = random.Random(seed + (HELD_OUT_SEED if held_out else 0))
    while True:
        task = _attempt(rng, held_out)
        if task is not None:
            return task


def _attempt(rng: random.Random, held_out: bool) -> Task | None:
    taken: set[str] = set()
    module = pick(rng, held_out, taken)
    count = rng.choice((1, 1, 2, 2, 3))
    functions = [write(rng, kind, held_out, taken) for kind in rng.sample(KINDS, count)]
    target = rng.choice(functions)
    bugs = [
        b
        for b in candidates(target.body, target.names, rng)
        if is_held_out_combination(combination(target, b)) == held_out
    ]
    if not bugs:
        return None
    # bug kinds equally often, not in proportion to how many lines they apply to
    kind = rng.choice(sorted({b.kind for b in bugs}))
    bug = rng.choice([b for b in bugs if b.kind == kind])
    gap = "\n\n\n" if rng.random() < 0.8 else "\n\n"
    title = rng.choice(("", "", f'"""Functions for {module}."""\n\n', f"# {module}\n"))
    right = title + gap.join(f.source() for f in functions) + "\n"
    wrong = title + gap.join(f.source(bug if f is target else None) for f in functions) + "\n"
    old, new = bug.wrong.strip(), target.body[bug.line].strip()
    if wrong.count(old) != 1 or wrong.replace(old, new) != right:
        return None
    tests = write_tests(rng, functions, target, module, right, wrong)
    if tests is None:
        return None
    test_name = f"test_{module}.py"
    failures, passed = run(wrong, tests, module)
    if not failures or run(right, tests, module)[0]:
        return None
    output = protocol.summary([protocol.failure(*f) for f in failures], passed)
    if len(output) > 400:
        return None
    lines = tuple(dict.fromkeys(s for line in wrong.splitlines() if (s := line.strip()) and s != old))
    return Task(
        module=f"{module}.py",
        files={f"{module}.py": wrong, test_name: tests},
        fixed=right,
        old=old,
        new=new,
        function=target.name,
        combination=combination(target, bug),
        test_output=output,
        other_lines=lines,
    )


def combination(function: Function, bug: Bug) -> str:
    return f"{function.kind.name}/{bug.kind}/{bug.line}"


def write(rng: random.Random, kind: Kind, held_out: bool, taken: set[str]) -> Function:
    """Gives a kind of function names, constants, a wording and a layout."""
    k = rng.randint(2, 12)
    m = k + rng.randint(3, 12)
    first, second, v, w, x = (pick(rng, held_out, taken) for _ in range(5))
    if rng.random() < 0.3:
        v = rng.choice([n for n in ("out", "acc", "res", "tmp") if n not in taken])
    stem = pick(rng, held_out, taken)
    name = rng.choice((stem, f"{kind.name}_{stem}", f"{stem}_{kind.name}", f"get_{stem}"))
    taken |= {v, name}
    ending = rng.choice(TEXTS)

    def fill(text: str) -> str:
        for mark, value in zip("f a b v w x K M T".split(), (name, first, second, v, w, x, k, m, ending), strict=True):
            text = text.replace(f"${mark}", str(value))
        return text

    doc = fill(rng.choice(kind.docs))
    head = f"def {name}({fill(kind.args)}):"
    style = rng.random()
    header = [head, f'    """{doc}"""'] if style < 0.75 else [f"# {doc}", head]
    marks = {"$a": first, "$b": second, "$v": v, "$w": w, "$x": x}
    used = [n for mark, n in marks.items() if mark in kind.args + kind.body]
    return Function(kind, name, used, header, [fill(line) for line in kind.lines], (k, m))


def write_tests(
    rng: random.Random, functions: list[Function], target: Function, module: str, right: str, wrong: str
) -> str | None:
    """One or two tests per function with expected values from the right code; one of them shows the bug."""
    good, bad = load(right), load(wrong)
    blocks: list[str] = []
    shown = False
    for function in functions:
        for number in range(1 if function is not target else rng.choice((1, 2))):
            call, value, differs = None, None, False
            for _ in range(12 if function is target and not shown else 1):
                arguments = function.kind.inputs(rng, *function.constants)
                value = outcome(good, function.name, arguments)
                call = f"{function.name}({', '.join(repr(a) for a in arguments)})"
                differs = function is target and outcome(bad, function.name, arguments) != value
                if differs:
                    break
            if call is None or isinstance(value, _Raised):
                return None
            shown |= differs
            suffix = "" if number == 0 else f"_{number + 1}"
            operator = "is" if isinstance(value, bool) else "=="
            blocks.append(f"def test_{function.name}{suffix}():\n    assert {call} {operator} {value!r}\n")
    if not shown:
        return None
    imports = f"from {module} import {', '.join(f.name for f in functions)}\n"
    return imports + "\n\n" + "\n\n".join(blocks)


@dataclass(frozen=True, slots=True)
class _Raised:
    name: str


def load(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(compile(source, "module", "exec"), namespace)
    return namespace


def outcome(namespace: dict[str, Any], name: str, arguments: tuple[Any, ...]) -> Any:
    try:
        return namespace[name](*arguments)
    except Exception as error:
        return _Raised(type(error).__name__)


def run(source: str, tests: str, module: str) -> tuple[list[runner.Outcome], int]:
    """Runs generated tests in this process with the same runner as the agent's subprocess."""
    namespace = load(source)
    header, body = tests.split("\n", 1)
    names = header.split(" import ")[1].split(", ")
    scope: dict[str, Any] = {n: namespace[n] for n in names}
    exec(compile("\n" + body, "tests", "exec"), scope)
    return runner.run_namespace(scope, tests, "tests")
