"""The demo's repositories: one bug, one failing test, one line that repairs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from examples.agent.agent import is_green
from examples.agent.workspace import Workspace
from examples.demo.story import TASKS

FIXES = {
    "gauge": ("if reading > 8:", "if reading >= 8:"),
    "ledger": ("return balnce", "return balance"),
    "order": ("return cost - 5", "return cost + 5"),
    "seats": ("range(1, rows)", "range(1, rows + 1)"),
    "shelf": ("return books[3:]", "return books[:3]"),
}


def test_every_task_has_its_fix() -> None:
    assert {path.name for path in TASKS.iterdir() if path.is_dir()} == set(FIXES)


@pytest.mark.parametrize("name", sorted(FIXES))
def test_one_line_repairs_it(name: str, tmp_path: Path) -> None:
    workspace = Workspace(shutil.copytree(TASKS / name, tmp_path / name))
    before = workspace.run_tests()
    assert before.endswith("1 failed, 1 passed")
    assert workspace.edit_file(f"{name}.py", *FIXES[name]) == f"edited {name}.py"
    assert is_green(workspace.run_tests())
