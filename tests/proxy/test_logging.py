"""Log lines: one JSON document a line for machines, and nothing below the level that was asked for."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from proxy import logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_lines_for_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logging.configure("info")
    log = structlog.get_logger()
    log.debug("unheard")
    log.info("request.end", tokens=3, odd=object, text="zwei\nZeilen")
    try:
        raise ValueError("reason")
    except ValueError:
        log.exception("model.failed")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["request.end", "model.failed"]
    assert lines[0] | {"level": "info", "tokens": 3, "text": "zwei\nZeilen"} == lines[0]
    assert lines[0]["timestamp"].endswith("Z")
    assert "ValueError: reason" in lines[1]["exception"]


def test_lines_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    logging.configure("warning")
    log = structlog.get_logger()
    log.info("unheard")
    log.warning("mode.reduced", reason="no head")
    assert "mode.reduced" in stream.getvalue() and "no head" in stream.getvalue()
    assert "unheard" not in stream.getvalue()


def test_fields_of_a_request_are_bound_to_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logging.configure("info")
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        structlog.get_logger().info("inside")
    structlog.get_logger().info("outside")
    inside, outside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert inside["request_id"] == "req_1" and "request_id" not in outside


def test_an_unknown_level_is_an_error() -> None:
    with pytest.raises(KeyError):
        logging.configure("loud")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_tracebacks_show_no_values(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    logging.configure("info")
    prompt = "what a user " + "wrote"
    try:
        raise ValueError("reason")
    except ValueError:
        structlog.get_logger().exception("request.failed")
    assert "reason" in shown.getvalue()
    assert prompt not in shown.getvalue()
