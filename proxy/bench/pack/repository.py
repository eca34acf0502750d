"""Tasks from a user's repository: one name misspelt in a short function, to be mended; other files as context.

Must not: execute, import or change anything of the repository, follow links out of it, or read without a bound.
Invariant: the same files and seed give the same tasks. A repair is right if its syntax tree is the original's, so
another repair that would do as well counts as failed.
"""

from __future__ import annotations

import ast
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from proxy.bench.pack.sandbox import same_tree, unknown_names
from proxy.bench.pack.tasks import Source, Task, shipped
from proxy.configuration.config import ConfigProblem

MOST_FILES, MOST_BYTES, MOST_TASKS = 2000, 200_000, 60
LINES = range(4, 40)
"""Of a function that becomes a task."""
SKIPPED = {"node_modules", "__pycache__", "venv", "site-packages", "build", "dist"}


def read_repository(folder: Path, seed: int = 0) -> Source:
    """Raises ConfigProblem where there is nothing to make tasks from."""
    if not folder.is_dir():
        raise ConfigProblem(f"--repo: {folder} is no folder; name one that is there")
    texts = dict(_texts(folder.resolve()))
    modules = tuple((path, text) for path, text in texts.items() if text.strip())
    tasks = list(_tasks(modules, random.Random(seed)))
    if not tasks:
        raise ConfigProblem(
            f"--repo: {folder} has no Python function of {LINES.start} to {LINES.stop - 1} lines that a task can be "
            "made of; name another folder, or leave --repo out for the shipped tasks"
        )
    return replace(
        shipped(),
        name=f"repository {folder.name}",
        tasks=tuple(tasks),
        modules=modules,
    )


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    """(path inside the folder, text) of its Python files, in the order of their paths."""
    seen = 0
    for path in _files(folder):
        if path.is_symlink() or not path.resolve().is_relative_to(folder) or not path.is_file():
            continue
        seen += 1
        if seen > MOST_FILES:
            return
        try:
            if path.stat().st_size <= MOST_BYTES:
                yield path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue


def _files(folder: Path) -> Iterator[Path]:
    """Python files in the order of their folders and names; what is skipped is not walked through."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if name.endswith(".py") and not name.startswith("."))


def _tasks(modules: tuple[tuple[str, str], ...], rng: random.Random) -> Iterator[Task]:
    """One of a module at most, so that tasks are unlike each other."""
    made = 0
    for path, text in rng.sample(modules, len(modules)):
        try:
            functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        rng.shuffle(functions)
        task = next(filter(None, (_task(path, text, function, rng) for function in functions)), None)
        if task is not None:
            yield task
            made += 1
        if made == MOST_TASKS:
            return


def _task(path: str, text: str, function: ast.FunctionDef, rng: random.Random) -> Task | None:
    """The function alone as a module, with one reading of a local name misspelt; None if it will not do."""
    fixed = (ast.get_source_segment(text, function) or "") + "\n"
    if fixed.count("\n") not in LINES or unknown_names(fixed) == ("(syntax)",):
        return None
    local = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    reads = [
        node
        for node in ast.walk(ast.parse(fixed))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in local and len(node.id) > 3
    ]
    if not reads:
        return None
    spot = rng.choice(reads)
    at = rng.randrange(1, len(spot.id) - 1)
    wrong = spot.id[:at] + spot.id[at + 1 :]
    lines = [line + "\n" for line in fixed.split("\n")[:-1]]  # as the parser counts them: a form feed ends none
    line = lines[spot.lineno - 1].encode()
    begin, end = spot.col_offset, spot.col_offset + len(spot.id.encode())
    lines[spot.lineno - 1] = (line[:begin] + wrong.encode() + line[end:]).decode()
    faulty = "".join(lines)
    if wrong not in unknown_names(faulty) or same_tree(faulty, fixed):
        return None
    statement = lines[spot.lineno - 1].strip()
    return Task(
        name=f"{path}: {function.name}",
        module=Path(path).name,
        source=faulty,
        fixed=fixed,
        function=function.name,
        output=f"FAIL test_{function.name}\n  {statement}\n  NameError: name '{wrong}' is not defined\n"
        "1 failed, 0 passed",
        judge="tree",
        place=path,
    )
