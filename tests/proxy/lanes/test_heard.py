"""What one small request brought back, sound, hostile and of several dialects."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.lanes.asking import Asker
from proxy.lanes.heard import Heard, Said, hear, told
from proxy.lanes.trials import body_for
from tests.proxy.lanes.upstreams_of import able, at
from tests.upstreams.dialects import KINDS, Kind
from tests.upstreams.server import Upstream


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_from_a_stream_and_in_one_piece(kind: Kind) -> None:
    async with Upstream(kind, {"m": able()}).running() as up, Asker(at(up)) as asker:
        body = body_for("m", "Repeat the fox.", 400, stream_options={"include_usage": True})
        streamed, whole = await hear(asker, body), await told(asker, body)
    assert streamed.text == streamed.content == whole.text and streamed.text.startswith("the quick brown")
    assert streamed.completion_tokens == whole.completion_tokens and streamed.ended and whole.ended


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"choices": {}},
        {"choices": [None, 3, {"delta": []}, {"delta": {"content": 3}}, {"logprobs": [1]}]},
        {"choices": [{"logprobs": {"content": [{}, 7, {"logprob": "x"}]}, "token_ids": ["a", True, -1, 2.5]}]},
        {"choices": [{"logprobs": {"content": 5}}]},
        {"usage": [1], "timings": "fast", "prompt_token_ids": 5},
        {"usage": {"completion_tokens": -3, "prompt_tokens": "many", "prompt_tokens_details": []}},
    ],
)
def test_what_is_of_another_type_is_not_there(value: Any) -> None:
    heard = Heard()
    heard.take(value)
    assert (heard.text, heard.token_ids, heard.prompt_ids, heard.logprobs) == ("", [], [], [])
    assert heard.completion_tokens is None and heard.prompt_tokens is None and heard.cached_tokens is None


def test_everything_that_is_told_is_heard() -> None:
    heard = Heard()
    heard.take({"prompt_token_ids": [5, 6], "choices": []})
    entry = {"logprob": -0.5, "top_logprobs": [{}, {}]}
    delta = {"reasoning_content": "hm ", "content": "yes"}
    heard.take({"choices": [{"delta": delta, "token_ids": [1, 2], "logprobs": {"content": [entry]}}]})
    heard.take({"choices": [{"delta": {}, "finish_reason": "stop"}], "timings": {"cache_n": 7}})
    assert (heard.text, heard.content, heard.token_ids, heard.prompt_ids) == ("hm yes", "yes", [1, 2], [5, 6])
    assert heard.logprobs == [Said(-0.5, 2)] and heard.ended and heard.cached_tokens == (7, "timings")
    heard.take({"usage": {"prompt_tokens_details": {"cached_tokens": 9}}})
    assert heard.cached_tokens == (9, "usage")


@pytest.mark.parametrize(
    "value",
    [
        {"error": {"message": "out of memory"}},
        {"error": "out of memory"},
        {"object": "error", "message": "out of memory"},
    ],
)
def test_errors_in_the_stream(value: Any) -> None:
    heard = Heard()
    heard.take(value)
    assert heard.errors == ["out of memory"]
