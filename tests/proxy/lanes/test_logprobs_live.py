"""What a client is told of the text's tokens, by lanes of every kind: those of the text, each once, and no number that
nobody has told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.proxy.lanes.pool import known, pool, two_lanes
from tests.proxy.lanes.told import body
from tests.proxy.live import CHAT, payloads
from tests.upstreams.dialects import KINDS, Kind
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import Call, Reply, Text, Thinking

SAID = "I list it all. Now. "
WORDS = ["I", " list", " it", " all", ".", " Now", ".", " "]
LS, BAD = Call("ls", {"path": "src"}), Call("ls", {"pth": "src"})


def reported(answer: bytes) -> list[tuple[str, float]]:
    choices = [chunk["choices"][0] for chunk in payloads(answer) if chunk != "[DONE]" and chunk["choices"]]
    entries = [entry for choice in choices for entry in (choice["logprobs"] or {}).get("content") or ()]
    return [(entry["token"], entry["logprob"]) for entry in entries]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    "parts",
    [(Text(SAID),), (Text(SAID), LS), (Thinking("Hm.\n"), Text(SAID), LS), (Thinking("I list it all. "), Text(SAID))],
    ids=["text", "call", "thoughts", "alike"],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_they_are_those_of_the_text(kind: Kind, parts: Any, width: int) -> None:
    upstream = two_lanes(kind, Lane(Reply(parts), width=width, speculation="mtp"))
    async with pool(upstream, known(kind, logprobs_under_speculation=None)) as running:
        _, answer = await running.post(CHAT, body(CHAT, logprobs=True, top_logprobs=0))
        found = reported(answer)
        words = [token for token, _ in found]
        if kind == "openai":  # it tells a step's numbers with the last of its chunks, and no ids that would join them
            rest = iter(WORDS)
            assert words and all(word in rest for word in words)
        else:
            assert words == WORDS
        assert kind == "llamacpp" or {logprob for _, logprob in found} == {-0.25}, "as the lane tells them"


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp"])
async def test_so_they_are_behind_a_fall_back(kind: Kind) -> None:
    first = "I list all that there is below it, one thing after the other. "
    fast = Lane(Reply((Text(first), BAD)), width=4, speculation="mtp")
    upstream = two_lanes(kind, fast, Lane(Reply((Text(f"{first}Now. "), LS))))
    async with pool(upstream, known(kind, logprobs_under_speculation=None)) as running:
        _, answer = await running.post(CHAT, body(CHAT, logprobs=True, top_logprobs=0))
        assert upstream.of("plain"), "it has gone on"
        words = "".join(token for token, _ in reported(answer)).split()
        # a token that begins with white space which was sent already is another one, where no id tells which
        assert words == [*first.split(), "." if kind == "llamacpp" else "Now."]
