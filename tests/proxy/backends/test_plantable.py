"""Whoever may not import the engine knows its faults all the same."""

from __future__ import annotations

import pytest

from engine.faults import Fault
from proxy.backends.plantable import PLANTABLE
from proxy.commands.main import main


def test_the_names_are_the_engines() -> None:
    assert tuple(Fault) == PLANTABLE


def test_the_help_of_serve_lists_them(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(fault in shown for fault in Fault)
