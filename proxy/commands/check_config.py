"""`specguard check-config`: is a configuration right, what does it change, and where does each value come from?

Must not: show an API key, a header of a lane or its salt, or start anything.
Invariant: what it calls right, `specguard serve` takes, as far as that can be told without the model.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import orjson

from proxy.commands.settings import add_settings, flags_of
from proxy.configuration.config import Config
from proxy.configuration.detector_section import as_toml
from proxy.configuration.example import example
from proxy.configuration.needs import check_needs
from proxy.configuration.policy_source import load_policy
from proxy.configuration.sources import Loaded, dotted, load_with_sources


def add(check: argparse.ArgumentParser) -> None:
    """Its arguments: those of `specguard serve`, and how to show the result."""
    check.description = (
        "Checks a configuration as `specguard serve` would take it, with the environment and the flags. "
        "Prints every value that was given, where it comes from, and the default that it replaces."
    )
    check.add_argument("config", type=Path, metavar="FILE", nargs="?", help="TOML file; none = environment and flags")
    check.add_argument("--json", action="store_true", help="print all values, and the sources of those that were given")
    check.add_argument("--example", action="store_true", help="print a file with every key, its default and its reason")
    add_settings(check)
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    if options.example:
        print(example(), end="")
        return 0
    loaded = load_with_sources(options.config, os.environ, flags_of(options))
    check_needs(loaded.config)
    load_policy(loaded.config.guard)  # says what is wrong with the file that is named there
    print(as_json(loaded) if options.json else told(loaded))
    return 0


def as_json(loaded: Loaded) -> str:
    """Everything, with the sources of what was given."""
    shown = _shown(loaded.config) | {"sources": dict(sorted(loaded.sources.items()))}
    return orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode()


def told(loaded: Loaded) -> str:
    """A line for each value that was given."""
    values, defaults = dotted(_shown(loaded.config)), dotted(_shown(Config()))
    given = {key: source for key, source in sorted(loaded.sources.items()) if key in values}
    rows = []
    for key, source in given.items():
        same = values[key] == defaults.get(key)
        rows.append(
            (f"{key} = {_value(values[key])}", source, "the default" if same else f"default {_value(defaults[key])}")
        )
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = [f"{what:{widths[0]}}  {source:{widths[1]}}  {note}" for what, source, note in rows]
    rest = len(defaults.keys() - given.keys())
    return "\n".join([*lines, f"{rest} other values are as by default (specguard check-config --example)"])


def _shown(config: Config) -> dict[str, Any]:
    """As JSON data, without keys of clients, and what lanes are sent that may be one."""
    shown = config.model_dump(mode="json")
    for lane in (shown["lanes"]["fast"], shown["lanes"]["plain"]):
        lane["headers"] = [f"{header.partition(':')[0]}: (hidden)" for header in lane["headers"]]
    shown["lanes"]["cache_salt"] = "(hidden)" if config.lanes.cache_salt else ""
    shown["server"]["keys"] = [f"({len(config.server.keys)} set)"] if config.server.keys else []
    return shown


def _value(value: Any) -> str:
    return "as the policy says" if value is None else as_toml(tuple(value) if isinstance(value, list) else value)
