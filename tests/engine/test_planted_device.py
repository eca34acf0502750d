"""A device that hangs or dies does so once a turn, after it has said something, and every hang can be ended."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import cast

import pytest

from engine.faults import Fault
from engine.planted_device import STRIKES_AT, PlantedDevice, ThreadDeath
from engine.turn import Turn


class Said(SimpleNamespace):
    """A turn that has generated so many tokens."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def turn(count: int) -> Turn:
    return cast(Turn, Said(generated=[0] * count))


@pytest.mark.parametrize("fault", [None, *Fault])
def test_a_turn_that_has_just_begun_is_spared(fault: Fault | None) -> None:
    PlantedDevice(fault).before_step([turn(STRIKES_AT - 1), turn(0)])


@pytest.mark.parametrize("fault", [None, *sorted(set(Fault) - {Fault.STEP_HANGS, Fault.WORKER_DIES})])
def test_other_faults_leave_the_device_alone(fault: Fault | None) -> None:
    PlantedDevice(fault).before_step([turn(STRIKES_AT)])


def test_a_death_is_nothing_that_handlers_of_errors_handle() -> None:
    device, struck = PlantedDevice(Fault.WORKER_DIES), turn(STRIKES_AT)
    with pytest.raises(ThreadDeath) as death:
        device.before_step([turn(0), struck])
    assert not isinstance(death.value, Exception)
    device.before_step([struck])  # once


def test_a_hang_lasts_until_it_is_released() -> None:
    device, struck = PlantedDevice(Fault.STEP_HANGS), turn(STRIKES_AT)
    returned = threading.Event()

    def step() -> None:
        device.before_step([struck])
        returned.set()

    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    assert not returned.wait(0.05)
    device.release()
    assert returned.wait(20)
    device.before_step([struck])  # once


def test_a_release_does_not_spare_the_next_turn() -> None:
    device = PlantedDevice(Fault.STEP_HANGS)
    device.release()
    thread = threading.Thread(target=device.before_step, args=([turn(STRIKES_AT)],), daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    device.release()
    thread.join(20)
    assert not thread.is_alive()
