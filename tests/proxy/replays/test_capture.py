"""A capture survives its way through JSON, with everything that a request can hold."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from policies.modes import PLAIN, DecodeMode
from proxy.conversation import ChatRequest, Decoding, Demands, Message, PastCall, Sampling, Tool
from proxy.replays.capture import Capture

REQUEST = ChatRequest(
    "openai.chat",
    "m",
    (
        Message("system", "be brief"),
        Message("assistant", "", "hm", (PastCall("c1", "ls", {"path": "src", "deep": {"n": [1, None]}}),)),
        Message("tool", "a\nb", call_id="c1"),
    ),
    (Tool("ls", "lists", {"type": "object", "properties": {"path": {"type": "string"}}}, strict=True),),
    Sampling(0.7, 0.9, 40, 0.05, 7, 1.1, 0.2, 0.3, ((5, -100.0), (6, 1.5))),
    128,
    ("END",),
    stream=True,
    session="s",
    request_id="r",
    decoding=Decoding("ngram", "k8v8", 3),
    demands=Demands(True, "ls", 1, {"type": "object"}, "response_format"),
    logprobs=3,
)
CAPTURE = Capture(
    REQUEST,
    DecodeMode("mtp+ngram", "k4v4"),
    2**63 - 1,
    (1, 2, 3),
    2,
    (4, 5),
    (6,),
    ((0, DecodeMode("mtp")), (1, PLAIN)),
    "said",
    ("password",),
)


def test_a_capture_comes_back_equal() -> None:
    assert Capture.parse(json.loads(json.dumps(CAPTURE.plain()))) == CAPTURE


@pytest.mark.parametrize(
    "broken", [{}, {**CAPTURE.plain(), "mode": "warp"}, {**CAPTURE.plain(), "request": {"api": 1}}]
)
def test_what_is_no_capture_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Capture.parse(broken)


def test_exact_is_what_has_its_tokens() -> None:
    assert replace(CAPTURE, redacted=()).is_exact
    assert not CAPTURE.is_exact
    assert not replace(CAPTURE, redacted=(), prompt_ids=()).is_exact
