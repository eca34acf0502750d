"""The example configuration: every key with its default and what it is for, written from the model.

Must not: say anything that the model does not, but for how to use the file.
Invariant: what it returns is a configuration file that sets every key to its default, and nothing else.

`python -m proxy.configuration.example` writes `examples/config.example.toml` anew.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from policies.policy import Policy
from proxy.configuration.config import Config
from proxy.configuration.detector_section import as_toml, comment, reasons_of, written

FILE = Path(__file__).parents[2] / "examples" / "config.example.toml"
HEAD = """\
# Every key with its default. Copy what you want to change; a key that is left out keeps its default. Those of [guard]
# that begin with `#` have none of their own: the policy says them, with these values if it is the shipped one.
#   specguard serve --config FILE        specguard check-config FILE
# The environment overrides the file (SPECGUARD_SERVER__PORT=9000), flags override both.
"""


def example() -> str:
    """The file."""
    config = Config()
    values = [name for name in Config.model_fields if not _is_section(config, name)]
    sections = [name for name in Config.model_fields if _is_section(config, name)]
    parts = [HEAD.rstrip(), _keys(config, values)]
    for name in sections:
        section = getattr(config, name)
        parts += _section(section, name) if isinstance(section, BaseModel) else [written(section, name)]
    return "\n\n".join(parts) + "\n"


def _section(section: BaseModel, name: str) -> list[str]:
    """Its keys, then the sections in it."""
    fields = list(type(section).model_fields)
    inner = [field for field in fields if isinstance(getattr(section, field), BaseModel)]
    found = [f"[{name}]\n{_keys(section, [field for field in fields if field not in inner])}"]
    for field in inner:
        found += _section(getattr(section, field), f"{name}.{field}")
    return found


def _is_section(config: Config, name: str) -> bool:
    return name == "detectors" or isinstance(getattr(config, name), BaseModel)


def _keys(section: BaseModel, names: list[str]) -> str:
    """Each group of keys below its reason."""
    reasons = reasons_of(type(section))
    lines: list[str] = []
    group: list[str] = []
    for name in names:
        value = getattr(section, name)
        group.append(f"{name} = {as_toml(value)}" if value is not None else f"# {name} = {_by_policy(name)}")
        if name in reasons:
            lines += [*comment(reasons[name]), *group]
            group = []
    return "\n".join([*lines, *group])


def _by_policy(name: str) -> str:
    return as_toml(getattr(Policy(), name))


if __name__ == "__main__":
    FILE.write_text(example(), encoding="utf-8")
