"""The help is wide enough for the longest flag beside its explanation."""

from __future__ import annotations

import argparse

from proxy.commands.layout import Wide


def test_a_long_flag_has_its_explanation_on_its_line() -> None:
    parser = argparse.ArgumentParser(prog="p", formatter_class=Wide)
    parser.add_argument("--served-model", metavar="NAME", help="explained")
    (line,) = [line for line in parser.format_help().splitlines() if "--served-model" in line and "[" not in line]
    assert line.endswith("explained")
