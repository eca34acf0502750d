"""The command `specguard`: serve, incidents, replay, policy, trust, lanes, qualify, bench, check-config.

Must not: do work that a library user would need (that is in the modules it calls).
Invariant: a wrong call or configuration ends with status 2 and one clear line, never with a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from policies.modes import DecodeMode
from proxy.backends.plantable import PLANTABLE
from proxy.commands.trust import add_trust
from proxy.configuration import sources as configuration
from proxy.configuration.config import Config, ConfigProblem
from proxy.configuration.policy_source import load_policy


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="specguard",
        formatter_class=_Wide,
        description="A guard between coding agents and a local model: speculative speed, checked tool calls, and a "
        "fall-back to plain decoding inside the same response.",
    )
    parser.add_argument("--version", action="version", version=f"specguard {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="start the server",
        formatter_class=_Wide,
        description="Starts the server and prints how to point agents at it. Flags override the environment "
        "(SPECGUARD_SECTION__KEY, such as SPECGUARD_SERVER__PORT=9000), which overrides the file.",
    )
    serve.add_argument("--config", type=Path, metavar="FILE", help="TOML file, see examples/config.example.toml")
    _add_settings(serve)
    serve.set_defaults(run=_serve)

    from proxy.commands.incidents import add_incidents

    add_incidents(commands, _Wide, _load)
    add_trust(commands)

    from proxy.commands.bench import add_benchmarks
    from proxy.commands.policy import add_policy

    add_policy(commands, _Wide)
    add_benchmarks(commands, _Wide)

    from proxy.commands.qualify import add_qualify

    add_qualify(commands, _Wide)

    from proxy.commands.env import add_env

    add_env(commands, _Wide)

    from proxy.commands.replay import add_replay

    add_replay(commands, _Wide, _load)

    from proxy.commands.lanes import add_lanes

    add_lanes(commands, _Wide, _load)

    from proxy.commands.check_config import add_check_config

    add_check_config(commands, _Wide, _add_settings, _flags)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Flags that set a value of the configuration."""
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1; others need server.keys)")
    parser.add_argument("--port", type=int, help="port to listen on (default 8787)")
    parser.add_argument(
        "--model", metavar="DIR", help="model folder in Hugging Face layout (default: the embedded one)"
    )
    parser.add_argument(
        "--mode",
        type=_mode,
        help="decode mode: plain, ngram, mtp or mtp+ngram (default mtp+ngram)",
        metavar="MODE",
    )
    parser.add_argument(
        "--incidents", metavar="FILE", help="where incidents are kept (default specguard-incidents.sqlite)"
    )
    parser.add_argument("--observe", action="store_true", help="record findings, change nothing")
    parser.add_argument("--plant", metavar="FAULT", help=f"plant an engine fault, for demos: {', '.join(PLANTABLE)}")
    levels = ("debug", "info", "warning", "error")
    parser.add_argument(
        "--log-level", choices=levels, metavar="LEVEL", help="debug, info, warning or error (default info)"
    )


class _Wide(argparse.HelpFormatter):
    """Help with room for the longest flag."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def _mode(text: str) -> str:
    try:
        return str(DecodeMode.parse(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _version() -> str:
    from proxy.versions import own_version

    return own_version()


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    """What flags set, by dotted key; None = nothing."""
    given = vars(options)
    return {
        "server.host": given.get("host"),
        "server.port": given.get("port"),
        "model.path": given.get("model"),
        "decode.mode": given.get("mode"),
        "incidents.path": given.get("incidents"),
        "guard.action": "observe" if given.get("observe") else None,
        "plant": given.get("plant"),
        "log.level": given.get("log_level"),
    }


def _load(options: argparse.Namespace) -> Config:
    return configuration.load(vars(options).get("config"), os.environ, _flags(options))


def _serve(options: argparse.Namespace) -> int:
    from proxy.server.serve import serve

    config = _load(options)
    load_policy(config.guard)  # says what is wrong with it before the engine is loaded
    return serve(config)
