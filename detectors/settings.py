"""All numbers that the detectors go by, in one frozen object.

Must not: read files or the environment; the proxy's configuration builds one.
Invariant: `DetectorSettings()` is what is shipped and measured. Each part has its own module and its own section.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectors.loop_settings import LoopSettings


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """One section per part."""

    loops: LoopSettings = LoopSettings()  # noqa: RUF009 - frozen
