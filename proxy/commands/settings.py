"""Flags that set a value of the configuration, for the commands that take it as `specguard serve` would.

Must not: know what a value means; `proxy.configuration` checks them.
Invariant: a flag that was not given sets nothing, so that the environment and the file hold.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from policies.modes import DecodeMode
from proxy.backends.plantable import PLANTABLE
from proxy.configuration import sources
from proxy.configuration.config import Config


def add_settings(parser: argparse.ArgumentParser) -> None:
    """What can be set besides by environment and file."""
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


def flags_of(options: argparse.Namespace) -> dict[str, Any]:
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


def load(options: argparse.Namespace) -> Config:
    """From the file of `--config`, the environment and the flags. Raises ConfigProblem."""
    return sources.load(vars(options).get("config"), os.environ, flags_of(options))


def _mode(text: str) -> str:
    try:
        return str(DecodeMode.parse(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
