"""What is taken away stays away; where name spaces do it, test_sandbox.py looks at the whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proxy.bench.pack import confinement

LOOKS = """
import ctypes, importlib.util, subprocess, sys
spec = importlib.util.spec_from_file_location("confinement", sys.argv[1])
confinement = importlib.util.module_from_spec(spec)
spec.loader.exec_module(confinement)
if len(sys.argv) == 4:  # the one that is looked at
    if "r" in sys.argv[2]: confinement.give_up_rights()
    if "m" in sys.argv[2]: confinement.keep_memory()
    print(flush=True)
    sys.stdin.read()
    raise SystemExit
kept = subprocess.Popen([sys.executable, "-c", sys.stdin.read(), sys.argv[1], sys.argv[2], "kept"],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
kept.stdout.readline()
confinement.give_up_rights()
try: print(bool(open(f"/proc/{kept.pid}/mem", "rb")), end="")
except OSError: print(False, end="")
kept.stdin.close()
kept.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own way is Linux's")
@pytest.mark.parametrize(("kept", "seen"), [("rm", "False"), ("m", "False"), ("r", "True")])
def test_code_without_name_spaces_cannot_look_into_who_compares(kept: str, seen: str) -> None:
    """With rights given up on both sides it is the memory that keeps to itself."""
    command = [sys.executable, "-c", LOOKS, confinement.__file__, kept]
    done = subprocess.run(command, input=LOOKS.encode(), capture_output=True, check=True)
    assert done.stdout.decode() == seen, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")
def test_limits_cannot_be_taken_back() -> None:
    code = (
        "import importlib.util, resource, sys\n"
        "spec = importlib.util.spec_from_file_location('confinement', sys.argv[1])\n"
        "made = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(made)\nmade.confine(7, 256)\n"
        "print(resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_AS))\n"
        "print(resource.getrlimit(resource.RLIMIT_FSIZE))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, confinement.__file__], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"(7, 7) ({256 << 20}, {256 << 20})\n({1 << 20}, {1 << 20})\n"
