"""`specguard bench guard` as a user calls it: the quick form, on the embedded model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from proxy.commands.main import main


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """The command sends logs to the standard error of its own process, errors alone."""
    yield
    structlog.reset_defaults()


def test_the_quick_form_reports_one_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "guard", "--quick", "--json", "--fault", "verify-ignores-cache"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bench"] == "guard"
    assert [row[0] for row in report["tables"][0]["rows"]] == ["verify-ignores-cache"] * 2
    assert {bar["name"] for bar in report["bars"]} >= {"bytes of bad tool calls leaked", "blame right"}
    assert set(report["missed"]) == {bar["name"] for bar in report["bars"] if not bar["holds"]}
    assert next(b["measured"] for b in report["bars"] if b["name"] == "bytes of bad tool calls leaked") == 0


@pytest.mark.slow
def test_a_part_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "guard", "--quick", "--json", "--part", "calm"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [table["title"] for table in report["tables"]] == ["Without a fault"]
    assert set(report["unmeasured"]) == {"matrix", "cost"}
    assert report["missed"] == []


def test_an_unknown_fault_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "guard", "--fault", "warp"]) == 2
    assert "there is no fault 'warp'; known faults: verify-ignores-cache" in capsys.readouterr().err
