"""What a configuration needs of this machine: folders, files, packages.

Must not: make any of it, or load a model. Invariant: whatever is missing is a ConfigProblem that names the key and the
remedy, the same for `specguard serve` and `specguard check-config`.
"""

from __future__ import annotations

from pathlib import Path

from policies.qualification import Qualification, QualificationProblem, parse
from proxy.backends.plantable import PLANTABLE
from proxy.config import Config, ConfigProblem


def check_needs(config: Config) -> None:
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
