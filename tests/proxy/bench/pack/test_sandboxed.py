"""The script alone: what it writes, and that it imports nothing of ours."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.bench.pack import confinement, sandboxed
from proxy.bench.pack.sandboxed import received, sent

SECRET = "0123456789abcdef" * 2
VALUES: list[Any] = [
    None,
    True,
    1,
    2**200,
    "é\ud800",
    0.1,
    float("inf"),
    1j,
    b"\xff",
    [1, (2, [3])],
    {1, 2},
    frozenset("a"),
]


def told(folder: Path, role: str = "tests", asked: str = "") -> dict[str, Any]:
    command = [sys.executable, "-I", "-S", "-B", sandboxed.__file__, role, str(folder), "5", "512"]
    done = subprocess.run(command, input=(SECRET + asked).encode(), capture_output=True)
    assert done.stdout.count(b"\n") == 0
    made: dict[str, Any] = json.loads(done.stdout)
    assert made.pop("secret") == SECRET
    return made


def test_one_line_whatever_is_printed(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "print('noise')\ndef test_ok(): print('more')\ndef test_bad():\n    assert 1 + 1 == 3\n"
    )
    (tmp_path / "test_b.py").write_text("import nowhere_at_all\n")
    made = told(tmp_path)
    assert made["passed"] == 1 and isinstance(made["offline"], bool)
    assert made["failures"] == [
        ["test_bad", "assert 1 + 1 == 3", "got 2"],
        ["test_b", "(import)", "ModuleNotFoundError: No module named 'nowhere_at_all'"],
    ]


def test_plain_data_comes_as_it_was_sent() -> None:
    for value in [*VALUES, VALUES[:6], {"a": VALUES, (1, 2.0): None}]:
        back = received(json.loads(json.dumps(sent(value))))
        assert back == value and type(back) is type(value)
    assert str(received(sent(float("nan")))) == "nan"


class Everything(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize("value", [Everything(), object(), len, [Everything()], {1: object}])
def test_nothing_else_is_sent(value: Any) -> None:
    with pytest.raises(TypeError, match="is no plain data"):
        sent(value)


@pytest.mark.parametrize("data", [{"list": [1], "tuple": []}, {"eval": "1"}, {"float": "x"}, {"bytes": "zz"}, {}])
def test_what_is_no_data_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        received(data)


@pytest.mark.parametrize("file", [sandboxed.__file__, confinement.__file__])
def test_it_stands_alone(file: str) -> None:
    tree = ast.parse(Path(file).read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {str(name).partition(".")[0] for name in names} & {"proxy", "policies", "detectors", "engine"}
