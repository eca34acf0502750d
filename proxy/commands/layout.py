"""How the help of every command looks.

Must not: know a command. Invariant: the longest flag and its explanation fit on one line.
"""

from __future__ import annotations

import argparse


class Wide(argparse.HelpFormatter):
    """Help with room for the longest flag."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)
