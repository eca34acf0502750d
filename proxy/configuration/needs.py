"""What a configuration needs of this machine: folders, files, packages.

Must not: make any of it, or load a model. Invariant: whatever is missing is a ConfigProblem that names the key and the
remedy, the same for `specguard serve` and `specguard check-config`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from policies.qualification import Qualification, QualificationProblem, parse
from proxy.backends.plantable import PLANTABLE
from proxy.configuration.config import Config, ConfigProblem
from proxy.lanes.settings import Lane


def check_needs(config: Config, environment: Mapping[str, str] = os.environ) -> None:
    """Raises ConfigProblem."""
    if config.model.path and not Path(config.model.path).is_dir():
        raise ConfigProblem(f"model.path: there is no folder {config.model.path}; name one that holds a model")
    if Path(config.incidents.path).is_dir():
        raise ConfigProblem(f"incidents.path: {config.incidents.path} is a folder; name a file in it")
    if config.plant and config.plant not in PLANTABLE:
        raise ConfigProblem(f"plant: there is no fault {config.plant!r}; known faults: {', '.join(PLANTABLE)}")
    if config.trust.qualification:
        read_qualification(config.trust.qualification)
    if config.telemetry.endpoint:
        require_telemetry()
    if config.lanes.configured:
        check_key("fast", config.lanes.fast, environment)
        if config.lanes.has_plain:
            check_key("plain", config.lanes.plain_lane, environment)


def check_key(name: str, lane: Lane, environment: Mapping[str, str]) -> None:
    """Raises ConfigProblem for a lane whose key is named and not there."""
    if lane.key_env and not lane.key_in(environment):
        raise ConfigProblem(
            f"lanes.{name}.key_env: the environment variable {lane.key_env} is not set; put the server's key into it, "
            "or leave key_env empty"
        )


def read_qualification(path: str) -> Qualification:
    """Raises ConfigProblem, with every line naming the file or a key in it."""
    try:
        return parse(Path(path).read_bytes())
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigProblem(f"trust.qualification: {path} cannot be read ({reason}); name another, or none") from None
    except QualificationProblem as problem:
        raise ConfigProblem(f"trust.qualification: {path}: {problem}") from None


def require_telemetry() -> None:
    """Raises ConfigProblem where the extra `otel` is not installed."""
    try:
        import proxy.telemetry  # noqa: F401
    except ImportError as error:
        raise ConfigProblem(
            f"telemetry.endpoint: {error.name} is not installed; pip install 'specguard[otel]', or leave it empty"
        ) from None
