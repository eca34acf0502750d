"""The command `specguard`: its subcommands by name, each in the module of its name.

Must not: do work that a library user would need (that is in the modules it calls), or import a subcommand that was not
asked for: a line for a shell must not wait for what only a benchmark needs.
Invariant: a wrong call or configuration ends with status 2 and one clear line, never with a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from proxy.commands.layout import Wide

COMMANDS = {
    "serve": "start the server",
    "incidents": "look at what the guard has caught",
    "trust": "decode modes that are out of service, and putting them back",
    "policy": "what findings lead to: check, show and try rules",
    "bench": "measure speed and cost, and check them against the promised bars",
    "qualify": "find out up to which context each decode mode can be trusted, and write it down",
    "env": "print the settings that point a client at a running server",
    "replay": "run a captured incident again and name the layer at fault",
    "lanes": "what the servers behind the guard can tell and do",
    "check-config": "check a configuration and print what it changes",
}
"""In the order of the help."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parser_for(given).parse_args(given)

    from proxy.configuration.config import ConfigProblem

    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except ConfigProblem as problem:
        print(f"specguard: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        return 0


def parser_for(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Knows all subcommands by name, and the arguments of those that are named."""
    parser = argparse.ArgumentParser(
        prog="specguard",
        formatter_class=Wide,
        description="A guard between coding agents and a local model: speculative speed, checked tool calls, and a "
        "fall-back to plain decoding inside the same response.",
    )
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, formatter_class=Wide)
        if name in arguments:
            import_module(f"proxy.commands.{name.replace('-', '_')}").add(command)
    return parser


class _Version(argparse.Action):
    """Found out when asked for: it reads the installed package."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from proxy.versions import own_version

        print(f"specguard {own_version()}")
        parser.exit()
