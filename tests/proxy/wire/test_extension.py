"""What a response tells of itself beyond its API: timings always, decoding to those who chose it, tokens on request."""

from __future__ import annotations

from dataclasses import replace

from proxy.conversation import ChatRequest, Decoding, Message
from proxy.events import Finished, Timings, Usage
from proxy.wire.extension import extension, timings

REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),))
ASKED = replace(REQUEST, decoding=Decoding("mtp", "k4v4", 3))
END = Finished(
    "stop",
    Usage(9, 4, 20, 3, 5),
    Timings(5, 2.0, 20, 40.0, 30, 12, 4),
    "mtp/k4v4",
    incidents=("inc_1",),
    token_ids=(7, 8),
    drafts={"mtp": (30, 12)},
    longest_draft=3,
)


def test_timings_come_always() -> None:
    told = extension(END, REQUEST, transcript=False)
    assert told == {"timings": timings(END)}
    assert (told["timings"]["draft_n"], told["timings"]["draft_n_accepted"]) == (30, 12)
    assert told["timings"]["predicted_per_second"] == 500.0
    context = sum(told["timings"][name] for name in ("cache_n", "prompt_n", "predicted_n"))
    assert context == END.usage.prompt_tokens + END.usage.completion_tokens, "as llama.cpp's documents say"


def test_no_time_is_no_speed() -> None:
    assert timings(replace(END, timings=Timings()))["prompt_per_second"] == 0.0


def test_who_chose_how_to_decode_is_told_what_ran() -> None:
    told = extension(END, ASKED, transcript=False)["specguard"]
    speculative = {"enabled": True, "types": ["mtp"], "n_max": 3, "longest_draft": 3}
    assert told == {
        "mode": "mtp/k4v4",
        "speculative": speculative | {"drafts": {"mtp": {"n": 30, "accepted": 12}}},
        "kv": "k4v4",
    }


def test_a_fall_back_shows() -> None:
    told = extension(replace(END, mode="plain"), ASKED, transcript=False)["specguard"]
    assert (told["mode"], told["kv"], told["speculative"]["enabled"]) == ("plain", "full", False)
    assert told["speculative"]["types"] == []


def test_a_transcript_holds_both() -> None:
    told = extension(END, ASKED, transcript=True)["specguard"]
    assert (told["token_ids"], told["incidents"], told["discarded_tokens"]) == ([7, 8], ["inc_1"], 5)
    assert "speculative" in told and "drafts_by_position" not in told
    placed = replace(END, by_position=((10, 8), (10, 4)))
    assert extension(placed, REQUEST, transcript=True)["specguard"]["drafts_by_position"] == [[10, 8], [10, 4]]
    assert "specguard" not in extension(placed, REQUEST, transcript=False)
    assert "speculative" not in extension(END, REQUEST, transcript=True)["specguard"]
