"""One incident, its closure, a judgement of it, and what was captured with it."""

from __future__ import annotations

from policies.modes import DecodeMode
from proxy.conversation import ChatRequest, Message
from proxy.incidents import Closure, Incident, Judgement
from proxy.replays.capture import Capture

INCIDENT = Incident(
    id="inc_1",
    request_id="req_1",
    session="s",
    api="openai.chat",
    model="m",
    fingerprint="sha256:0",
    detector="tool.schema",
    grade="fallback",
    reason="required",
    channel="tool:0",
    position=20,
    began=4,
    action="rewind",
    mode_before="mtp/full",
    mode_after="plain",
    rewound_to=4,
    tokens_rewound=17,
    context=100,
    prompt_tokens=80,
    cached_tokens=0,
    seed=1,
    temperature=0.0,
    prompt_sha256="0" * 64,
    rebuild="trusted",
    evidence={"keyword": "required"},
)
CLOSURE = Closure("inc_1", "recovered", "speculation", "certain", "tool_calls", 2.0, 4, 30, 17, {"compared": 3})
ROW = {"axis": "draft", "mode": "plain", "tokens": 17, "first_difference": 3, "cures": True, "recurs": False}
JUDGEMENT = Judgement("inc_1", "kv", "certain", axes=(ROW,), milliseconds=80.0)
CAPTURE = Capture(
    ChatRequest("openai.chat", "m", (Message("user", "a quiet prompt"),), request_id="req_1"),
    DecodeMode("mtp"),
    1,
    (7001, 7002),
    0,
    (7003,),
    (7004, 7005),
    ((0, DecodeMode("mtp")),),
    "a quiet response",
)
