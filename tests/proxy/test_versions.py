"""Versions: of what runs, without loading what does not."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from proxy.versions import own_version, versions


def test_versions_are_those_of_the_packages() -> None:
    assert versions()["specguard"] == own_version() == version("specguard")
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))


def test_torch_is_named_once_it_is_loaded() -> None:
    code = (
        "from proxy.versions import versions; first = versions(); import sys, types; "
        "module = types.ModuleType('torch'); module.__version__ = '9.9'; sys.modules['torch'] = module; "
        "print('torch' in first, versions()['torch'])"
    )
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert answer.stdout == "False 9.9\n"
