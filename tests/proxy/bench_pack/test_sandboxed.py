"""The script alone: what it writes, and that it imports nothing of ours."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from proxy.bench_pack import sandboxed


def test_one_line_whatever_is_printed(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "print('noise')\ndef test_ok(): print('more')\ndef test_bad():\n    assert 1 + 1 == 3\n"
    )
    (tmp_path / "test_b.py").write_text("import nowhere_at_all\n")
    done = subprocess.run(
        [sys.executable, "-I", "-B", sandboxed.__file__, str(tmp_path), "5", "512"], capture_output=True, text=True
    )
    told = json.loads(done.stdout)
    assert told["passed"] == 1 and isinstance(told["offline"], bool)
    assert told["failures"] == [
        ["test_bad", "assert 1 + 1 == 3", "got 2"],
        ["test_b", "(import)", "ModuleNotFoundError: No module named 'nowhere_at_all'"],
    ]


def test_it_stands_alone() -> None:
    tree = ast.parse(Path(sandboxed.__file__).read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {str(name).partition(".")[0] for name in names} & {"proxy", "policies", "detectors", "engine"}
