"""`speculative` and `kv` mean the same on all APIs, and what is no drafter or codec is refused with the nearest one."""

from __future__ import annotations

import difflib
from typing import Any

import orjson
import pytest

from proxy.conversation import Decoding
from proxy.errors import RequestError
from proxy.wire import anthropic_parse, openai_chat_parse, openai_responses_parse

USER = [{"role": "user", "content": "hi"}]
APIS: list[tuple[Any, dict[str, Any]]] = [
    (openai_chat_parse, {"model": "m", "messages": USER}),
    (openai_responses_parse, {"model": "m", "input": "hi"}),
    (anthropic_parse, {"model": "m", "messages": USER, "max_tokens": 9}),
]
each_api = pytest.mark.parametrize(("api", "body"), APIS, ids=["chat", "responses", "messages"])


def parse(api: Any, body: dict[str, Any]) -> Any:
    return api.parse(orjson.dumps(body))


@each_api
@pytest.mark.parametrize(
    ("fields", "decoding"),
    [
        ({}, Decoding()),
        ({"speculative": None, "kv": None}, Decoding()),
        ({"speculative": {}}, Decoding()),
        ({"speculative": {"enabled": None, "types": None, "n_max": None}}, Decoding()),
        ({"speculative": {"enabled": False}}, Decoding("none")),
        ({"speculative": {"enabled": False, "types": "mtp", "n_max": 3}}, Decoding("none")),
        ({"speculative": {"n_max": 0}}, Decoding("none")),
        ({"speculative": {"enabled": True}}, Decoding("any")),
        ({"speculative": {"types": "none"}}, Decoding("none")),
        ({"speculative": {"types": "ngram"}}, Decoding("ngram")),
        ({"speculative": {"types": "ngram-mod"}}, Decoding("ngram")),
        ({"speculative": {"enabled": True, "types": ["ngram", "draft-mtp"]}}, Decoding("mtp+ngram")),
        ({"speculative": {"types": "mtp + ngram", "n_max": 4}}, Decoding("mtp+ngram", None, 4)),
        ({"speculative": {"n_max": 2}}, Decoding(None, None, 2)),
        ({"kv": "k8v8"}, Decoding(None, "k8v8")),
        ({"kv": "turboquant", "speculative": {"enabled": False}}, Decoding("none", "k4v4")),
    ],
)
def test_what_is_asked_for(api: Any, body: dict[str, Any], fields: dict[str, Any], decoding: Decoding) -> None:
    parsed = parse(api, body | fields)
    assert parsed.request.decoding == decoding
    assert parsed.ignored == ()


@each_api
@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"speculative": {"types": "ngrm"}}, "speculative.types", "'ngrm' is unknown, did you mean 'ngram'?; use one"),
        ({"speculative": {"types": ["mtp", "eagle"]}}, "speculative.types", "'eagle' is unknown; use one of 'mtp', 'n"),
        ({"speculative": {"types": "draft_mtp"}}, "speculative.types", "did you mean 'draft-mtp'?"),
        ({"speculative": {"types": []}}, "speculative.types", "[] is no choice; use 'mtp', 'ngram' or both"),
        ({"speculative": {"types": "none+mtp"}}, "speculative.types", "is no choice"),
        ({"speculative": {"enabled": True, "types": "none"}}, "speculative.types", "names no drafter"),
        ({"speculative": {"types": 3}}, "speculative.types", "valid string"),
        ({"speculative": {"nmax": 3}}, "speculative.nmax", "is unknown, did you mean 'n_max'?; use 'enabled', 'types'"),
        ({"speculative": {"n_max": -1}}, "speculative.n_max", "greater than or equal to 0"),
        ({"speculative": {"n_max": True}}, "speculative.n_max", "valid integer"),
        ({"speculative": {"enabled": "no"}}, "speculative.enabled", "valid boolean"),
        ({"speculative": "off"}, "speculative", "object"),
        ({"kv": "k4v5"}, "kv", "'k4v5' is unknown, did you mean 'k4v"),
        ({"kv": "q8_0"}, "kv", "'q8_0' is unknown; use one of 'full', 'k8v8'"),
        ({"kv": 8}, "kv", "valid string"),
    ],
)
def test_what_is_refused(api: Any, body: dict[str, Any], fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(api, body | fields)
    assert (caught.value.kind, caught.value.param) == ("invalid_request", param)
    assert caught.value.message.startswith(f"{param}: ")
    assert words in caught.value.message


@each_api
@pytest.mark.parametrize("fields", [{"kv": "k8v8" * 10**6}, {"speculative": {"types": "mtp" * 10**6}}])
def test_a_name_of_megabytes_is_not_compared(
    api: Any, body: dict[str, Any], fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    compare = difflib.get_close_matches

    def counted(word: str, *rest: Any) -> list[str]:
        compared.append(len(word))
        return compare(word, *rest)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    with pytest.raises(RequestError, match="is unknown; use one of"):
        parse(api, body | fields)
    assert max(compared) < 100, "seconds in which nobody else is served"


@each_api
def test_an_unknown_key_is_named_in_part_only(api: Any, body: dict[str, Any]) -> None:
    """What is refused is logged by name, and a key can hold whatever a client wrote."""
    with pytest.raises(RequestError, match=r"is unknown; use 'enabled'") as caught:
        parse(api, body | {"speculative": {"x" * 10**6: 1}})
    assert caught.value.param is not None
    assert len(caught.value.param) < 100 and len(caught.value.message) < 200
