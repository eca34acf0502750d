"""Names that a module takes from other modules where there are none: imports, and attributes of imported modules.

Modules of the repository are read, never imported; the standard library is asked in the sandbox. Of other packages only
the name at the top is looked up. What depends on the system, the version or a failed import is believed, and so is all
that cannot be known: stars, `__getattr__`, names that are bound more than once, attributes of what is no module.

Must not: import or run any of it in this process. Invariant: what is named here is missing for sure, on this Python.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from proxy.bench.pack.sandbox import missing_names

IMPORT_FAILS = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
ATTRIBUTE_FAILS = {"AttributeError", "ImportError", "ModuleNotFoundError", "NameError"}
DEPENDS = {"TYPE_CHECKING", "sys", "os", "platform", "hasattr", "find_spec", "version_info"}
"""A branch whose condition reads one of these may be for another system than this one."""
OTHER_SYSTEMS = set(
    "os.startfile os.O_BINARY os.O_TEMPORARY os.add_dll_directory os.getuid os.geteuid os.getgid os.fork os.killpg "
    "os.setsid os.sched_getaffinity signal.CTRL_C_EVENT signal.CTRL_BREAK_EVENT signal.SIGKILL signal.SIGHUP "
    "subprocess.STARTUPINFO subprocess.STARTF_USESHOWWINDOW subprocess.SW_HIDE subprocess.CREATE_NO_WINDOW "
    "subprocess.CREATE_NEW_PROCESS_GROUP sys.getwindowsversion sys.winver select.epoll select.kqueue select.kevent "
    "ctypes.windll ctypes.WinDLL ctypes.WinError ctypes.WINFUNCTYPE ctypes.oledll asyncio.ProactorEventLoop "
    "asyncio.WindowsSelectorEventLoopPolicy asyncio.WindowsProactorEventLoopPolicy time.tzset socket.AF_UNIX "
    "sys.last_type sys.last_value sys.last_traceback sys.ps1 sys.ps2".split()
)
"""Used without a condition often enough, after a `return` on other systems."""


@dataclass(frozen=True, slots=True)
class Claim:
    """That a module is there, and has these attributes one behind the other. level: dots of a relative import."""

    module: str
    attributes: tuple[str, ...] = ()
    level: int = 0

    def __str__(self) -> str:
        return "." * self.level + ".".join(filter(None, (self.module, *self.attributes)))


def invented_names(source: str, path: str, files: Mapping[str, str], reference: str = "") -> tuple[str, ...]:
    """Sorted. path: of the module inside the repository `files`; reference: what it should be, whose names are not
    looked for. Nothing of what does not parse. Blocks."""
    known = set(claims(reference))
    made = [claim for claim in claims(source) if claim not in known]
    if not made:
        return ()
    repository = Repository(dict(files) | {path: source})
    elsewhere: list[Claim] = []
    found = set()
    for claim in made:
        top = claim.module.partition(".")[0]
        if claim.level:
            claimed = repository.beside(path, claim)
            if claimed is not None and repository.lacks(*claimed, exact=True):
                found.add(str(claim))
        elif repository.has(top) and not repository.lacks(claim.module, claim.attributes):
            continue
        elif top in sys.stdlib_module_names:  # a file of the repository may have the same name
            elsewhere.append(claim)
        elif repository.has(top):
            found.add(str(claim))
        elif not _installed(top) and not repository.imports(top, besides=path):
            found.add(top)
    elsewhere = [claim for claim in elsewhere if str(claim) not in OTHER_SYSTEMS]
    if elsewhere:
        told = missing_names([(claim.module, claim.attributes) for claim in elsewhere])
        found |= {str(claim) for claim, absent in zip(elsewhere, told, strict=True) if absent}
    return tuple(sorted(found))


def _installed(top: str) -> bool:
    """A look for its file, not an import."""
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ImportError, ValueError, AttributeError):
        return True


def claims(source: str) -> list[Claim]:
    """Of everything that has to be there on every system; nothing of what does not parse."""
    try:
        reading = _Reading()
        reading.visit(ast.parse(source))
        return reading.claims()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


class _Reading(ast.NodeVisitor):
    """Goes through a module once."""

    def __init__(self) -> None:
        self._imported: list[Claim] = []
        self._aliases: dict[str, Claim] = {}
        self._bound: set[str] = set()
        self._reads: list[tuple[str, tuple[str, ...]]] = []
        self._written: set[tuple[str, ...]] = set()
        self._doubts_imports = self._doubts_reads = 0

    def claims(self) -> list[Claim]:
        found = list(self._imported)
        for root, attributes in self._reads:
            alias = self._aliases.get(root)
            if alias is None or root in self._bound:
                continue
            if any((root, *attributes[:n]) in self._written for n in range(1, len(attributes) + 1)):
                continue
            found.append(Claim(alias.module, alias.attributes + attributes, alias.level))
        return [claim for claim in dict.fromkeys(found) if not any(_dunder(name) for name in claim.attributes)]

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            top = alias.name.partition(".")[0]
            self._take(alias.asname or top, Claim(alias.name if alias.asname else top), Claim(alias.name))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        for alias in node.names:
            claim = Claim(module, () if alias.name == "*" else (alias.name,), node.level)
            if alias.name == "*":
                self._imported += [] if self._doubts_imports else [claim]
            else:
                self._take(alias.asname or alias.name, claim, claim)

    def _take(self, name: str, target: Claim, claim: Claim) -> None:
        if self._doubts_imports or self._aliases.setdefault(name, target) != target:
            self._bound.add(name)  # to one thing or another
        if not self._doubts_imports:
            self._imported.append(claim)

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        caught = {name for handler in node.handlers for name in _names(handler.type)}
        every = any(handler.type is None for handler in node.handlers)
        imports, reads = every or bool(caught & IMPORT_FAILS), bool(caught & ATTRIBUTE_FAILS)
        self._doubting([*node.body, *node.handlers, *node.orelse], imports, reads)
        self._all(node.finalbody)

    visit_TryStar = visit_Try

    def visit_With(self, node: ast.With) -> None:
        suppressed = {
            name
            for item in node.items
            if isinstance(item.context_expr, ast.Call) and "suppress" in _names(item.context_expr.func)
            for argument in item.context_expr.args
            for name in _names(argument)
        }
        self._all([part for item in node.items for part in (item.context_expr, item.optional_vars) if part])
        self._doubting(node.body, bool(suppressed & IMPORT_FAILS), bool(suppressed & ATTRIBUTE_FAILS))

    def visit_If(self, node: ast.If) -> None:
        doubts = bool(_names(node.test) & DEPENDS)
        self._doubting([node.test, *node.body, *node.orelse], doubts, doubts)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        doubts = bool(_names(node.test) & DEPENDS)
        self._doubting([node.test, node.body, node.orelse], doubts, doubts)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        doubts = "hasattr" in _names(node)
        self._doubting(node.values, doubts, doubts)

    def _doubting(self, nodes: Sequence[ast.AST], imports: bool, reads: bool) -> None:
        self._doubts_imports += imports
        self._doubts_reads += reads
        self._all(nodes)
        self._doubts_imports -= imports
        self._doubts_reads -= reads

    def _all(self, nodes: Sequence[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        attributes: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            self.visit(inner)
        elif not isinstance(node.ctx, ast.Load):
            self._written.add((inner.id, *attributes))
        elif not self._doubts_reads:
            self._reads.append((inner.id, tuple(attributes)))

    def generic_visit(self, node: ast.AST) -> None:
        self._bound |= set(_binds(node))
        super().generic_visit(node)


def _binds(node: ast.AST) -> Iterator[str]:
    """Names that a node binds itself, but for imports."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.arg(arg=name):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name


def _names(node: ast.AST | None) -> set[str]:
    """Everything that is read in an expression, attributes too."""
    found = set()
    for each in ast.walk(node) if node is not None else ():
        if isinstance(each, ast.Name):
            found.add(each.id)
        elif isinstance(each, ast.Attribute):
            found.add(each.attr)
    return found


def _dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


@dataclass(slots=True)
class Repository:
    """Its Python files by path, read on demand. A module is found below whichever folder its package is in."""

    files: Mapping[str, str]
    _places: dict[tuple[str, ...], list[str]] = field(default_factory=dict)
    _exports: dict[str, set[str] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in self.files:
            parts = _parts(path)
            for start in range(len(parts)):
                for end in range(start + 1, len(parts) + 1):  # folders on the way are packages, too
                    self._places.setdefault(parts[start:end], []).extend([path] if end == len(parts) else [])

    def has(self, top: str) -> bool:
        return (top,) in self._places

    def beside(self, path: str, claim: Claim) -> tuple[str, tuple[str, ...]] | None:
        """A relative claim from the top of the repository; None if it leads out of it."""
        folders = list(PurePosixPath(path).parts[:-1])
        up = claim.level - 1
        if up >= len(folders) + (not folders):
            return None
        base = folders[: len(folders) - up]
        return ".".join([*base, *filter(None, [claim.module])]), claim.attributes

    def lacks(self, module: str, attributes: Sequence[str], exact: bool = False) -> bool:
        """exact: the module is named from the top of the repository."""
        if not self._there(module, exact):
            return True
        for attribute in attributes:
            inner = f"{module}.{attribute}" if module else attribute
            exported = self._exported(module, exact)
            if exported is None or attribute in exported:
                return False
            if not self._there(inner, exact):
                return True
            module = inner
        return False

    def imports(self, top: str, besides: str) -> bool:
        """Does another file import this package?"""
        others = (text for path, text in self.files.items() if path != besides and top in text)
        return any(claim.module.partition(".")[0] == top for text in others for claim in claims(text))

    def _there(self, module: str, exact: bool) -> bool:
        parts = tuple(filter(None, module.split(".")))
        if not exact or not parts:
            return not parts or parts in self._places
        return any(_parts(path)[: len(parts)] == parts for path in self.files)

    def _exported(self, module: str, exact: bool) -> set[str] | None:
        """Names that its files bind at their top; None where nobody knows them all."""
        parts = tuple(filter(None, module.split(".")))
        found: set[str] = set()
        paths = [path for path in self.files if _parts(path) == parts] if exact else self._places.get(parts, [])
        for path in paths:
            if path not in self._exports:
                self._exports[path] = _exported(self.files[path])
            names = self._exports[path]
            if names is None:
                return None
            found |= names
        return found


def _parts(path: str) -> tuple[str, ...]:
    """As it is imported from the top: `a/b.py` and `a/b/__init__.py` are a, b."""
    parts = PurePosixPath(path).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _exported(source: str) -> set[str] | None:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if _names(tree) & {"globals", "exec", "vars", "modules", "setattr"}:
        return None
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        found |= set(_binds(node))
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)
        if inside:
            found |= {name for each in ast.walk(node) if isinstance(each, ast.Global) for name in each.names}
        else:
            waiting += ast.iter_child_nodes(node)
    return None if found & {"*", "__getattr__"} else found
