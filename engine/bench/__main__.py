"""`python -m engine.bench [engine] ...` from the source tree, for machines that have the engine's packages alone."""

from __future__ import annotations

import argparse
import json
import sys

from engine.bench.arguments import DESCRIPTION, Options, add_arguments
from engine.errors import EngineError


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 also when a bar was missed (the report says so), 2 when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m engine.bench", description=DESCRIPTION)
    parser.add_argument("bench", nargs="?", choices=("engine",), default="engine", help="which benchmark")
    parser.add_argument("--json", action="store_true", help="machine-readable report")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    from engine.bench.run import run  # --help needs no torch

    try:
        report = run(Options.of(options), lambda line: print(line, file=sys.stderr, flush=True))
    except EngineError as error:
        print(f"engine.bench: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.plain(), indent=2) if options.json else report.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
