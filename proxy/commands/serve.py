"""`specguard serve`: the server, in the foreground.

Must not: do what `proxy.server` does. Invariant: what can be wrong with a configuration is said before a model loads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from proxy.commands.settings import add_settings, load
from proxy.configuration.policy_source import load_policy


def add(serve: argparse.ArgumentParser) -> None:
    """Its flags."""
    serve.description = (
        "Starts the server and prints how to point agents at it. Flags override the environment "
        "(SPECGUARD_SECTION__KEY, such as SPECGUARD_SERVER__PORT=9000), which overrides the file."
    )
    serve.add_argument("--config", type=Path, metavar="FILE", help="TOML file, see examples/config.example.toml")
    add_settings(serve)
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    from proxy.server.serve import serve

    config = load(options)
    load_policy(config.guard)  # says what is wrong with it before the engine is loaded
    return serve(config)
