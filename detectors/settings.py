"""All numbers that the detectors go by, in one frozen object.

Must not: read files or the environment; the proxy's configuration builds one.
Invariant: `DetectorSettings()` is what is shipped and measured. Each part has its own module and its own section.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectors.call_history import HistorySettings
from detectors.charset import CharsetSettings
from detectors.drift.settings import DriftSettings
from detectors.elements import ElementSettings
from detectors.loop_settings import LoopSettings
from detectors.repeated_calls import RepeatedCallSettings
from detectors.stall import StallSettings
from detectors.structure import StructureSettings
from detectors.swallowed import SwallowedSettings


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """All numbers that the detectors go by, as shipped and measured; `specguard bench detectors` shows what others
    would do. What is changed here is no longer what was measured.

    One section per part; all of them frozen.
    """

    loops: LoopSettings = LoopSettings()  # noqa: RUF009
    """The same thing said again and again."""

    structure: StructureSettings = StructureSettings()  # noqa: RUF009
    elements: ElementSettings = ElementSettings()  # noqa: RUF009
    charset: CharsetSettings = CharsetSettings()  # noqa: RUF009
    calls: RepeatedCallSettings = RepeatedCallSettings()  # noqa: RUF009
    history: HistorySettings = HistorySettings()  # noqa: RUF009
    stall: StallSettings = StallSettings()  # noqa: RUF009
    swallowed: SwallowedSettings = SwallowedSettings()  # noqa: RUF009
    drift: DriftSettings = DriftSettings()  # noqa: RUF009


DEFAULT = DetectorSettings()
