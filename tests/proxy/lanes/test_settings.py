"""The `[lanes]` section: what is refused, and what the plain lane has in common with the fast one."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.configuration.config import Config, ConfigProblem
from proxy.configuration.sources import load
from proxy.lanes.settings import Lane, Lanes

URL = "http://127.0.0.1:8000"


def lanes(**values: Any) -> Lanes:
    return load(None, {}, {"lanes": {"fast": {"url": URL}, **values}}).lanes


def test_no_pool_by_default() -> None:
    assert not Config().lanes.configured
    assert lanes().configured
    assert not lanes().has_plain


@pytest.mark.parametrize(
    ("url", "root"), [(URL, URL), (f"{URL}/v1", URL), (f"{URL}/v1/", URL), (f"{URL}/a/", f"{URL}/a")]
)
def test_the_address_may_end_in_v1(url: str, root: str) -> None:
    assert Lane(url=url).root == root


def test_lanes_are_told_apart_by_model_alone() -> None:
    found = lanes(fast={"url": URL, "model": "q-fast", "kind": "llamacpp", "key_env": "K"}, plain={"model": "q-safe"})
    plain = found.plain_lane
    assert (plain.url, plain.model, plain.kind, plain.key_env) == (URL, "q-safe", "llamacpp", "K")


def test_lanes_are_told_apart_by_address_alone() -> None:
    found = lanes(fast={"url": URL, "model": "q", "key_env": "K"}, plain={"url": "http://10.0.0.2/v1"})
    assert (found.plain_lane.root, found.plain_lane.model, found.plain_lane.key_env) == ("http://10.0.0.2", "q", "")


def test_from_the_environment() -> None:
    found = load(None, {"SPECGUARD_LANES__FAST__URL": URL, "SPECGUARD_LANES__FAST__MODE": "ngram"}, {}).lanes
    assert (found.fast.url, found.fast.mode) == (URL, "ngram")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"plain": {"url": f"{URL}/v1"}}, "same server and model"),
        ({"fast": {}, "plain": {"model": "x"}}, "set fast.url"),
        ({"fast": {"url": "localhost:8000"}}, "lanes.fast.url"),
        ({"fast": {"url": "http://me:secret@host"}}, "lanes.fast.url"),
        ({"fast": {"url": URL, "mode": "warp"}}, "unknown drafter"),
        ({"fast": {"url": URL, "key_env": "sk-123"}}, "environment variable"),
        ({"fast": {"url": URL, "headers": ["X-A: b\r\nX-C: d"]}}, "is no header"),
        ({"fast": {"url": URL, "headers": ["Host: b"]}}, "set by specguard itself"),
        ({"fast": {"url": URL, "headers": ["Upgrade: b"]}}, "set by specguard itself"),
        ({"fast": {"url": URL, "headers": ["Authorization: a"], "key_env": "K"}}, "keep one of them"),
        ({"fast": {"url": URL, "metrics_urls": ["/metrics"]}}, "is no address"),
        ({"fast": {"url": URL, "modl": "x"}}, "did you mean 'model'"),
        ({"pass_headers": ["Authorization"]}, "keys of clients"),
        ({"pass_headers": ["a b"]}, "no header name"),
        ({"between": 3}, "did you mean 'between_s'"),
    ],
)
def test_what_cannot_work_is_refused_by_name(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigProblem, match="lanes") as caught:
        lanes(**values)
    assert told in str(caught.value)


def test_names_of_headers_are_compared_in_lower_case() -> None:
    assert lanes(pass_headers=["Cookie"]).pass_headers == ("cookie",)


def test_headers_go_on_by_name_and_only_where_there_are_lanes() -> None:
    headers = {"X-Session-ID": "s", "Cookie": "a=b", "TraceParent": "x\ny"}
    assert lanes().passed(headers) == (("x-session-id", "s"),)
    assert lanes(pass_headers=["cookie"]).passed(headers) == (("cookie", "a=b"),)
    assert Lanes().passed(headers) == ()
