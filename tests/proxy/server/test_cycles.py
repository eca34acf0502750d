"""In a process of its own: it is about the whole process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from proxy.server.cycles import look_rarely

class Cycle:
    alive = 0
    def __init__(self):
        self.me = self
        Cycle.alive += 1
    def __del__(self):
        Cycle.alive -= 1

def looks():
    return [each["collections"] for each in gc.get_stats()]

look_rarely()
before = looks()
kept = [[] for _ in range(20_000)]
print(looks() == before, gc.get_freeze_count() > 1000)
for _ in range(100_000):
    Cycle()
print(0 < Cycle.alive < 60_000)
"""


def test_thousands_of_objects_are_not_walked_through_and_cycles_are_found_all_the_same() -> None:
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == ["True", "True", "True"]
