"""The settings object: frozen, complete, and what is shipped."""

from __future__ import annotations

import dataclasses

import pytest

from detectors.settings import DetectorSettings


def test_nothing_can_be_changed_and_everything_replaced() -> None:
    shipped = DetectorSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        shipped.loops = shipped.loops  # type: ignore[misc]
    other = dataclasses.replace(shipped, loops=dataclasses.replace(shipped.loops, base64_chars=512))
    assert (shipped.loops.base64_chars, other.loops.base64_chars) == (256, 512)
    assert DetectorSettings() == shipped
