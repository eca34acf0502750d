"""The shape of the code base: who may import whom, what every module must have, what must stay light.

Must not: know what any module does.
Invariant: a failure names the file, the rule and the remedy.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "detectors": {"detectors"},
    "engine": {"engine"},
    "policies": {"policies", "detectors"},
    "proxy": {"proxy", "policies", "detectors"},
}
ENGINE_DOOR = "proxy.backends.builtin"
ENGINE_PARTS = ("proxy.backends.generation", "proxy.backends.replay", "proxy.backends.deltas")
"""Parts of ENGINE_DOOR, which alone imports them, but for each other: a response, a replay, how it tells."""
BENCH_DOOR = "proxy.commands.bench"
"""The second and last door: it runs the engine's own benchmark, which must also run on a machine that has the engine
alone, so it cannot live in the proxy. It imports the engine inside functions."""
WARN_LINES, MAX_LINES = 300, 400
MAX_TEST_LINES = 600
"""One test file per module leaves fewer places to split."""
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement. deferred: inside a function; typing_only: under `if TYPE_CHECKING`."""

    target: str
    line: int
    deferred: bool
    typing_only: bool


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    path: Path

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def where(self) -> str:
        return str(self.path.relative_to(ROOT))

    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"), self.where)


@cache
def our_modules() -> dict[str, Module]:
    modules = {}
    for package in MAY_IMPORT:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = Module(name, path)
    return modules


@cache
def imports_of(name: str) -> tuple[Import, ...]:
    return tuple(_walk(our_modules()[name].tree(), our_modules()[name], False, False))


def _walk(node: ast.AST, module: Module, deferred: bool, typing_only: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, deferred, typing_only)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            steps = node.level - (module.path.name == "__init__.py")
            parents = module.name.split(".")
            base = ".".join([*parents[: len(parents) - steps], *filter(None, [base])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield Import(full if full in our_modules() else base, node.lineno, deferred, typing_only)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.body:
            yield from _walk(child, module, deferred, True)
        for child in node.orelse:
            yield from _walk(child, module, deferred, typing_only)
    else:
        inside = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, module, inside, typing_only)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)


def fail_if_any(problems: list[str], remedy: str) -> None:
    if problems:
        pytest.fail("\n  ".join([remedy, *problems]), pytrace=False)


def test_lower_folders_never_import_upper_ones() -> None:
    problems = []
    for module in our_modules().values():
        allowed = MAY_IMPORT[module.package]
        for found in imports_of(module.name):
            package = found.target.partition(".")[0]
            if package == "engine" and module.name in (ENGINE_DOOR, *ENGINE_PARTS):
                continue
            if package == "engine" and module.name == BENCH_DOOR and found.deferred:
                continue
            if package in {*MAY_IMPORT, "tests", "examples"} and package not in allowed:
                problems.append(f"{module.where}:{found.line} imports {found.target}")
    rule = "; ".join(f"{upper}: {', '.join(sorted(lower))}" for upper, lower in MAY_IMPORT.items())
    fail_if_any(
        problems,
        f"These imports break the direction ({rule}; engine only through {ENGINE_DOOR} and, deferred, {BENCH_DOOR}):",
    )


def test_examples_are_clients() -> None:
    """The agent and the demo reach the server as a user would: over HTTP and through its command line."""
    problems = []
    for folder in ("agent", "demo"):
        for path in sorted((ROOT / "examples" / folder).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            targets = [f.target for f in _walk(tree, Module(f"examples.{folder}.{path.stem}", path), False, False)]
            problems += [f"{path.name} imports {t}" for t in targets if t.partition(".")[0] in MAY_IMPORT]
    fail_if_any(problems, "examples/agent and examples/demo import nothing of the four folders:")


def test_the_engine_is_reached_lazily() -> None:
    problems = [
        f"{module.where}:{found.line} imports {found.target}"
        for module in our_modules().values()
        if module.package == "proxy"
        for found in imports_of(module.name)
        if found.target in (ENGINE_DOOR, *ENGINE_PARTS, BENCH_DOOR) and not (found.deferred or found.typing_only)
        if module.name not in (ENGINE_DOOR, *ENGINE_PARTS) or found.target not in ENGINE_PARTS
    ]
    fail_if_any(problems, f"Import {ENGINE_DOOR} and {BENCH_DOOR} in the function that needs them; torch is not far:")


def test_no_import_cycles() -> None:
    graph = {
        name: sorted({f.target for f in imports_of(name) if f.target in our_modules() and not f.typing_only})
        for name in our_modules()
    }
    done: set[str] = set()
    problems: list[str] = []

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            problems.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in graph[name]:
                if target != name:
                    visit(target, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    fail_if_any(problems, "These modules import each other (move what both need into a third):")


def test_every_module_has_its_test_file() -> None:
    problems = []
    for module in our_modules().values():
        if module.path.name in ("__init__.py", "__main__.py") or only_declares(module.tree()):
            continue
        folder = ROOT / "tests" / module.path.relative_to(ROOT).parent
        if not (folder / f"test_{module.path.name}").exists():
            problems.append(f"{module.where} has no {(folder / f'test_{module.path.name}').relative_to(ROOT)}")
    fail_if_any(problems, "Every module that does something is tested in a file of its own:")


def only_declares(tree: ast.Module) -> bool:
    """Whether no function has a body beyond docstring and `...`: nothing there could be tested."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return all(
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        for function in functions
        for statement in function.body
    )


def source_files() -> list[Path]:
    folders = [*MAY_IMPORT, "examples", "tests"]
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if ROOT / "examples/demo/tasks" not in path.parents]


def test_every_module_says_what_it_is_for() -> None:
    problems = [
        str(path.relative_to(ROOT))
        for path in source_files()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    fail_if_any(problems, "A module starts with a docstring: purpose, what it must not do, its invariant:")


def test_files_stay_short() -> None:
    lengths = {path.relative_to(ROOT): path.read_text(encoding="utf-8").count("\n") for path in source_files()}
    for path, lines in lengths.items():
        if lines > WARN_LINES:
            print(f"long: {path} has {lines} lines (aim at {WARN_LINES} or fewer)")
    problems = [
        f"{path}: {lines} lines"
        for path, lines in lengths.items()
        if lines > (MAX_TEST_LINES if path.parts[0] == "tests" else MAX_LINES)
    ]
    fail_if_any(problems, f"Split these files by responsibility (limit {MAX_LINES}, aim {WARN_LINES}):")


def test_names_say_what_is_inside() -> None:
    problems = [
        str(path.relative_to(ROOT))
        for path in source_files()
        if VAGUE_NAMES & {path.stem, *path.relative_to(ROOT).parts}
    ]
    fail_if_any(problems, "Name these after what they hold:")


def test_every_folder_is_a_package() -> None:
    folders = {module.path.parent for module in our_modules().values()}
    problems = [str(f.relative_to(ROOT)) for f in sorted(folders) if not (f / "__init__.py").exists()]
    fail_if_any(problems, "These folders lack an __init__.py, so an installation would leave them out:")


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_every_module_imports_in_a_fresh_interpreter(package: str) -> None:
    names = [name for name, module in our_modules().items() if module.package == package]
    if importlib.util.find_spec("triton") is None:
        # the one module that needs an optional package; engine.kernels.switch imports it where there is one
        names = [name for name in names if name != "engine.kernels.attend"]
    result = python("import importlib\n" + "\n".join(f"importlib.import_module({n!r})" for n in names))
    fail_if_any([result.stderr] if result.returncode else [], f"Importing {package} failed:")


@pytest.mark.parametrize("package", ["detectors", "policies", "proxy"])
def test_torch_stays_out(package: str) -> None:
    light = [n for n, m in our_modules().items() if m.package == package and n not in (ENGINE_DOOR, *ENGINE_PARTS)]
    code = "import importlib, sys\n"
    for name in light:
        code += f"importlib.import_module({name!r})\n"
        code += f"assert 'torch' not in sys.modules, {name + ' imports torch; do so where it is used'!r}\n"
    result = python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["proxy.server.app", "proxy.commands.main"])
def test_entry_points_exist_and_are_light(name: str) -> None:
    fail_if_any([] if name in our_modules() else [name], "Missing; the command and the server start there:")
    result = python(f"import {name}, sys\nassert 'torch' not in sys.modules, 'torch was imported'")
    assert result.returncode == 0, result.stderr


def test_the_file_tree_in_the_readme_exists() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is where")[1].split("```")[1]
    problems: list[str] = []
    folders: list[str] = []
    for line in tree.strip().splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")  # two spaces and more begin the comment
        del folders[(len(line) - len(line.lstrip())) // 2 :]
        problems += [path for name in names if not (ROOT / (path := "".join([*folders, name]))).exists()]
        folders += [name for name in names if name.endswith("/")]
    fail_if_any(problems, "README.md names these paths, which do not exist:")
