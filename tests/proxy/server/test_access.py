"""Who may talk to the server, and that a refusal never repeats what was sent."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import make_mocked_request

from proxy.configuration.config import Server
from proxy.errors import RequestError
from proxy.server.access import check_access, owner
from tests.proxy.live import serving

LOCKED = Server(host="0.0.0.0", keys=("first-key", "zweiter-schlüssel"))


def refusal(server: Server, path: str = "/v1/messages", **headers: str) -> str | None:
    """The kind of the refusal, None if the request may pass."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        check_access(make_mocked_request("POST", path, headers=sent), server)
    except RequestError as error:
        assert not any("key" in value and value in error.message for value in sent.values())
        return error.kind
    return None


@pytest.mark.parametrize(
    "headers",
    [
        {"x_api_key": "first-key"},
        {"x_api_key": "zweiter-schlüssel"},
        {"authorization": "Bearer first-key"},
        {"x_api_key": "sk-ant-for-another-server", "authorization": "Bearer first-key"},
        {"x_api_key": "first-key", "authorization": "Bearer of-a-gateway-before-this-one"},
    ],
)
def test_either_header_and_any_key_opens(headers: dict[str, str]) -> None:
    assert refusal(LOCKED, **headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_api_key": "first-ke"},
        {"x_api_key": "first-key2"},
        {"authorization": "Basic first-key"},
        {"authorization": "Bearer"},
        {"x_api_key": "other-key", "authorization": "Bearer another-key"},
    ],
)
def test_anything_else_is_unauthorized(headers: dict[str, str]) -> None:
    assert refusal(LOCKED, **headers) == "unauthorized"


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_key(path: str) -> None:
    assert refusal(LOCKED, path) is None


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8787", "localhost", "LOCALHOST.:1", "[::1]:8787", "[::1]", "a.localhost:9"]
)
def test_without_keys_loopback_names_are_served(host: str) -> None:
    assert refusal(Server(), host=host) is None


@pytest.mark.parametrize("host", ["evil.example:8787", "localhost.evil.example", "192.168.0.7:8787", ""])
@pytest.mark.parametrize("path", ["/v1/messages", "/health"])
def test_without_keys_a_foreign_name_is_refused(host: str, path: str) -> None:
    assert refusal(Server(), path, host=host) == "forbidden"


async def test_bytes_that_are_no_text_are_a_wrong_key() -> None:
    async with serving("fine", server={"keys": ["first-key"]}) as live:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(live.base.rpartition(":")[2]))
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: \xff\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"401"
        writer.close()
        await writer.wait_closed()


def test_the_scheme_may_be_written_in_lower_case() -> None:
    assert refusal(LOCKED, authorization="bearer first-key") is None


def test_a_request_belongs_to_the_key_that_opened_the_server_for_it() -> None:
    def whose(**headers: str) -> str:
        return owner(make_mocked_request("POST", "/v1/messages", headers=headers), LOCKED)

    first = whose(authorization="Bearer first-key")
    assert whose(**{"x-api-key": "sk-ant-for-another-server"}, authorization="Bearer first-key") == first
    assert whose(**{"x-api-key": "zweiter-schlüssel"}, authorization="Bearer first-key") != first
