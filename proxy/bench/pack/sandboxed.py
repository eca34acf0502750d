"""Judges the code of a folder, in processes of its own: `python -I -B sandboxed.py ROLE DIR SECONDS MIB`.

ROLE `tests`: runs every test. The tests run in one process, the code that they test in another, and what a test gets of
a call is plain data that was sent between them. So nothing that the code does to its own process - other built-ins, an
exit, a patched test runner, an object that equals everything - reaches the process that compares and reports. ROLE
`names`: which of the names on standard input the standard library has.

What remains: code that breaks out of the kernel's limits; where it has none (see `confinement` and
`kernel_rules`), code of the same user that looks into this program's processes through the system; and tests that
believe too little.

Must not: import anything of this project, or run tests before its own limits are set.
Invariant: one line of JSON on the real standard output, with the secret that standard input began with, which the code
under test never has in its memory; it depends on the code alone.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NoReturn

MOST_CHARS = 1000
MOST_SENT = 1 << 20
SECRET_CHARS = 32


def _beside(name: str) -> Any:
    """A module of this folder, in which an isolated Python looks for none."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


confinement = _beside("confinement")
kernel_rules = _beside("kernel_rules")


def sent(value: Any) -> Any:
    """Plain data as JSON data, types and all. Raises TypeError for anything else, subclasses too."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float or kind is complex:
        return {kind.__name__: repr(value)}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind in (list, tuple, set, frozenset):
        return {kind.__name__: [sent(each) for each in value]}
    if kind is dict:
        return {"dict": [[sent(key), sent(each)] for key, each in value.items()]}
    raise TypeError(f"{kind.__name__} is no plain data")


def received(data: Any) -> Any:
    """What was sent. Raises ValueError, TypeError, RecursionError."""
    if not isinstance(data, dict):
        return data
    [(kind, value)] = data.items()
    match kind:
        case "float":
            return float(value)
        case "complex":
            return complex(value)
        case "bytes":
            return bytes.fromhex(value)
        case "list" | "tuple" | "set" | "frozenset":
            return getattr(builtins, kind)(received(each) for each in value)
        case "dict":
            return {received(key): received(each) for key, each in value}
    raise ValueError(f"{kind} is no plain data")


class Code:
    """The process with the code under test, as the tests see it: its modules can be imported."""

    def __init__(self, folder: Path) -> None:
        asked, ask = os.pipe()
        told, tell = os.pipe()
        self._process = os.fork()
        if not self._process:
            _be_code(folder, asked, tell)
        self.handle: int | None = None
        """By which it can be ended when no signal can be sent by number any more; None where systems have none."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self.handle = os.pidfd_open(self._process)
        os.close(asked)
        os.close(tell)
        self._ask, self._told = os.fdopen(ask, "wb", buffering=0), os.fdopen(told, "rb")
        sys.meta_path.insert(0, Finder(self, {path.stem for path in folder.glob("*.py")}))

    def end(self) -> None:
        if self.handle is None or sys.platform != "linux":
            os.kill(self._process, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        os.waitpid(self._process, 0)

    def does(self, **asked: Any) -> dict[str, Any]:
        """Raises what the code raises, by name and text; RuntimeError where it is gone or answers nonsense."""
        try:
            self._ask.write(json.dumps(asked).encode() + b"\n")
            answer = json.loads(self._told.readline(MOST_SENT))
        except (OSError, ValueError, RecursionError):
            raise RuntimeError("the code has ended its process, or said what nobody understands") from None
        if not isinstance(answer, dict):
            raise RuntimeError("the code says what nobody understands")
        if "raised" in answer:
            raise _error(*map(str, answer["raised"]))
        return answer

    def called(self, module: str, name: str, given: Sequence[Any], named: dict[str, Any]) -> Any:
        answer = self.does(do="call", module=module, name=name, given=sent(list(given)), named=sent(named))
        for mine, theirs in zip(given, received(answer["given"]), strict=True):
            if isinstance(mine, list | dict | set) and mine != theirs:  # it was changed in place
                mine.clear()
                mine.extend(theirs) if isinstance(mine, list) else mine.update(theirs)
        return received(answer["value"])


class Finder:
    """Modules of the code under test, as the tests import them."""

    def __init__(self, code: Code, modules: set[str]) -> None:
        self._code, self._modules = code, modules

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        loader: Any = self
        return importlib.machinery.ModuleSpec(name, loader) if name in self._modules else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The usual one."""

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        self._code.does(do="import", module=name)
        # with what is taken from it, it is filled: `import *` is not among the things that tests do
        module.__getattr__ = lambda attribute: self._taken(name, attribute)  # type: ignore[method-assign]

    def _taken(self, module: str, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        answer = self._code.does(do="get", module=module, name=name)
        if "callable" in answer:
            return lambda *given, **named: self._code.called(module, name, given, named)
        if "value" in answer:
            return received(answer["value"])
        raise AttributeError(f"module {module!r} has no attribute {name!r}")


def _error(text: str, *kinds: str) -> Exception:
    """As the code has raised it: an `except` of the test sees it, and so does the report. kinds: its class's names."""
    known = (getattr(builtins, kind, None) for kind in kinds)
    base = next((k for k in known if isinstance(k, type) and issubclass(k, Exception)), Exception)
    base = Exception if issubclass(base, ExceptionGroup) else base
    made: Any = type(kinds[0], (base,), {"__str__": lambda self: text, "__init__": lambda self: None})
    error: Exception = made.__new__(made)
    return error


def _be_code(folder: Path, asked: int, tell: int) -> NoReturn:
    """Never comes back from a fork that was made before there was anything to know."""
    try:
        mine = (os.dup(asked), os.dup(tell))
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        for file in range(3, confinement.MOST_FILES):
            if file not in mine:
                with contextlib.suppress(OSError):
                    os.close(file)
        confinement.give_up_rights()
        kernel_rules.stay_one()
        answer(folder, os.fdopen(mine[0], "rb"), os.fdopen(mine[1], "wb", buffering=0))
    finally:
        os._exit(1)


def answer(folder: Path, asked: BinaryIO, tell: BinaryIO) -> None:
    """The side of the code: imports and calls what it is asked to, until nobody asks any more."""
    sys.path.insert(0, str(folder))
    for line in asked:
        try:
            said = _done(json.loads(line))
        except (Exception, SystemExit) as error:
            said = {"raised": [str(error)[:MOST_CHARS], *(kind.__name__ for kind in type(error).__mro__)]}
        tell.write(json.dumps(said).encode() + b"\n")


def _done(asked: dict[str, Any]) -> dict[str, Any]:
    module = importlib.import_module(asked["module"])
    if asked["do"] == "import":
        return {}
    if not hasattr(module, asked["name"]):
        return {"missing": True}
    found = getattr(module, asked["name"])
    if asked["do"] == "get":
        return {"callable": True} if callable(found) else {"value": sent(found)}
    given = received(asked["given"])
    value = found(*given, **received(asked["named"]))
    return {"value": sent(value), "given": sent(given)}


def run(folder: Path) -> dict[str, Any]:
    """Every `test_*` function of every `test_*.py`: how many passed, and (name, statement, outcome) of the others."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("test_*.py"))}
    for path in sources:  # what is expected is not for the code to read
        path.unlink()
    return _run(sources)


def _run(sources: dict[Path, str]) -> dict[str, Any]:
    failures: list[tuple[str, str, str]] = []
    passed = 0
    for path, source in sources.items():
        scope: dict[str, Any] = {"__name__": path.stem}
        try:
            exec(compile(source, path.name, "exec"), scope)
        except (Exception, SystemExit) as error:
            failures.append((path.stem, "(import)", f"{type(error).__name__}: {error}"[:MOST_CHARS]))
            continue
        for name in [name for name in scope if name.startswith("test_") and callable(scope[name])]:
            try:
                scope[name]()
                passed += 1
            except (Exception, SystemExit) as error:
                statement, outcome = _told(error, source, path.name)
                failures.append((name, statement[:MOST_CHARS], outcome[:MOST_CHARS]))
    return {"passed": passed, "failures": failures}


def _told(error: BaseException, source: str, file: str) -> tuple[str, str]:
    """The statement of the test that failed, and what it got instead."""
    frames = [
        (frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file
    ]
    if not frames:
        return "(import)", f"{type(error).__name__}: {error}"
    frame, line = frames[-1]
    statement = source.splitlines()[line - 1].strip()
    if not isinstance(error, AssertionError):
        return statement, f"{type(error).__name__}: {error}"
    try:
        tree = ast.parse(statement).body[0]
        if not isinstance(tree, ast.Assert):
            return statement, "got something else"
        left = tree.test.left if isinstance(tree.test, ast.Compare) else tree.test
        value = eval(compile(ast.Expression(left), "<assert>", "eval"), frame.f_globals, frame.f_locals)
        return statement, f"got {value!r}"
    except (Exception, SystemExit) as again:
        return statement, f"got {type(again).__name__}"


def missing(names: Sequence[tuple[str, Sequence[str]]]) -> list[bool]:
    """Of (module, attributes one behind the other) in the standard library: whether that is nowhere."""
    return [_is_missing(module, attributes) for module, attributes in names]


def _is_missing(name: str, attributes: Sequence[str]) -> bool:
    """A module that belongs to another system is not missing, and neither is what an object that is no module has."""
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        here = error.name is not None and error.name != name.partition(".")[0]
        return here and (name + ".").startswith(f"{error.name}.")
    except Exception:
        return False
    for attribute in attributes:
        if not isinstance(found, ModuleType):
            return False
        if not hasattr(found, attribute):
            below = f"{found.__name__}.{attribute}"
            if not hasattr(found, "__path__") or importlib.util.find_spec(below) is None:
                return True
            found = importlib.import_module(below)
        else:
            found = getattr(found, attribute)
    return False


def main(role: str, folder: str, seconds: str, mib: str) -> None:
    place = Path(folder).resolve()
    confinement.keep_memory()
    out = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (1, 2):
        os.dup2(null, standard)
    confinement.alone()
    confinement.keep_out(place)
    offline = confinement.confine(int(seconds), int(mib))
    kernel_rules.read_only(place)
    code = Code(place) if any(not path.name.startswith("test_") for path in place.glob("*.py")) else None
    if code is None or code.handle is not None:
        kernel_rules.stay_one()  # an agent may have edited the tests
    # from here on there is something to know: the code's process knows nothing of it, and has not imported it yet
    given = sys.stdin.buffer.read()
    os.dup2(null, 0)
    secret, asked = given[:SECRET_CHARS].decode(), given[SECRET_CHARS:]
    try:
        report = run(place) if role == "tests" else {"missing": missing(json.loads(asked))}
    finally:
        if code is not None:
            code.end()
    os.write(out, json.dumps(report | {"offline": offline, "secret": secret}).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
