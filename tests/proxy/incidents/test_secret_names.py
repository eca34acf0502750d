"""Names that say their value is a secret, names that perhaps do, and values that look like one."""

from __future__ import annotations

import pytest

from proxy.incidents.secret_names import (
    is_attribute,
    is_bare_secret,
    is_call,
    is_path,
    is_placeholder,
    is_random_under,
    is_secret,
    kind_of,
    looks_encoded,
    looks_random,
    may_be_secret,
)

RANDOM = "Zx9Qw7Lk3Vb5Nm1Pq8"
HASH = "9f86d081884c7d659a2feaa0c55ad015"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("password", "password"),
        ("db.password", "password"),
        ("dbPassword", "password"),
        ("PGPASSWORD", "password"),
        ("X-Api-Key", "key"),
        ("clientSecret", "secret"),
        ("//registry.example/:_authToken", "token"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("Set-Cookie", "cookie"),
    ],
)
def test_a_name_of_a_secret(name: str, kind: str) -> None:
    assert is_secret(name)
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    "name", ["passport", "tokenizer", "max_tokens", "next_page_token", "eosToken", "key", "monkey"]
)
def test_a_name_of_none(name: str) -> None:
    assert not is_secret(name)
    assert not may_be_secret(name)


@pytest.mark.parametrize("name", ["OPENAI_KEY", "stripe-key", "auth", "DOCKER_AUTH", "ssh_key", "deployKey"])
def test_a_name_that_may_be_of_one_is_if_the_value_is_random(name: str) -> None:
    assert may_be_secret(name)
    assert is_random_under(name, RANDOM)
    assert not is_random_under(name, "a-slug-with-v2-in-it")


@pytest.mark.parametrize("name", ["primary_key", "CACHE_KEY", "publicKey", "object-key", "author", "keyboard"])
def test_a_name_that_hardly_is_of_one(name: str) -> None:
    assert not may_be_secret(name)


def test_a_hash_is_a_secret_only_under_a_name_in_capitals() -> None:
    assert not is_random_under("some_key", HASH)
    assert is_random_under("SOME_KEY", HASH)
    assert not is_random_under("some_key", "ssh-ed25519-" + RANDOM)


def test_a_user_and_a_password_in_base64_are_known_also_without_a_digit() -> None:
    assert is_random_under("auth", "YWxpY2U6aHVudGVy")  # alice:hunter
    assert not is_random_under("auth", "anVzdHdvcmRz")  # no colon
    assert looks_encoded("YWxpY2U6aHVudGVy")
    assert not looks_encoded("authentication-middleware")


@pytest.mark.parametrize("value", [RANDOM, HASH, "ab-" + RANDOM, "a1b2c3d4e5f6"])
def test_random(value: str) -> None:
    assert looks_random(value)


@pytest.mark.parametrize(
    "value", ["learn-contrib-v2-imbalanced", "user2024-table", f"{RANDOM} two", "TokenAuthenticationFilter2", "a1b2"]
)
def test_not_random(value: str) -> None:
    assert not looks_random(value)


@pytest.mark.parametrize(
    "value",
    [
        "string",
        "$TOKEN",
        "${TOKEN}",
        "{{ x }}",
        "<your key>",
        "%(x)s",
        "****",
        "...",
        "Bearer $TOKEN",
        "your-api-key-here",
    ],
)
def test_what_stands_in_for_a_secret(value: str) -> None:
    assert is_placeholder(value)


@pytest.mark.parametrize("value", ["hunter2", "pa$$word", "your mother", "x{y}z", "Bearer hunter2", "correct_horse"])
def test_what_does_not_stand_in_for_one(value: str) -> None:
    assert not is_placeholder(value)


def test_code_and_paths() -> None:
    assert is_attribute("config2.password")
    assert not is_attribute("hunter2.x1")
    assert is_call("getpass.getpass()")
    assert not is_call("a$b(c)")
    assert is_path("/etc/ssl/key1.pem")
    assert is_path("~/.ssh/id_rsa")
    assert not is_path("/" + RANDOM)
    assert not is_path("hunter2")


@pytest.mark.parametrize(
    ("value", "name", "is_environment", "expected"),
    [
        ("hunter2", "password", False, True),
        ("hunter", "password", False, False),
        ("hunter", "PASSWORD", True, True),
        ("1234567", "password", False, True),
        ("1234567", "token", False, False),
        ("12_345_678", "password", False, True),
        ("self.x2", "password", False, False),
    ],
)
def test_bare(value: str, name: str, is_environment: bool, expected: bool) -> None:
    assert is_bare_secret(value, name, is_environment) is expected
