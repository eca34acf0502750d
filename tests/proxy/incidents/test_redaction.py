"""Secrets in every place and shape that a captured conversation has; and what is none and must stay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.conversation import ChatRequest, Demands, Message, PastCall, Tool
from proxy.incidents.redaction import MARK, redact_capture, redact_text
from proxy.incidents.secret_shapes import SHAPES
from tests.proxy.incidents.samples import CAPTURE

ROOT = Path(__file__).parents[3]
NO_SECRETS: set[tuple[str, str]] = set()
LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"
SECRETS = {
    "api_key": "sk-proj-Ab0_9xYz0123456789",
    "github_token": "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
    "gitlab_token": "glpat-0123456789abcdefghij",
    "aws_key": "AKIAIOSFODNN7EXAMPLE",
    "google_key": "AIzaSyA0123456789abcdefghijklmnopqrstuv",
    "slack_token": "xoxb-0123456789-abcdefghij",
    "hub_token": "hf_abcdefghijklmnopqrstuvwxyz012345",
    "webhook": "hooks.slack.com/services/T012/B345/Zx9Qw7Lk3Vb5Nm1Pq8",
    "vendor_token": "dop_v1_Zx9Qw7Lk3Vb5Nm1Pq8",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "private_key": f"-----BEGIN RSA PRIVATE KEY-----\n{LINE}\n{LINE}\n-----END RSA PRIVATE KEY-----",
    "url_password": "alice:hunter2pass",
}


def test_every_shape_has_an_example() -> None:
    assert set(SECRETS) == {*SHAPES, "private_key", "url_password"}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("around", ["{}", "use {} now", "x='{}'", '{{"a": "{}"}}', "({})", "\n{}\n", "a={},b"])
def test_shapes_are_found_anywhere(kind: str, around: str) -> None:
    secret = SECRETS[kind]
    text = around.format(f"postgres://{secret}@db/x" if kind == "url_password" else secret)
    clean, kinds = redact_text(text)
    assert secret not in clean
    assert kind in kinds
    assert clean.startswith(around.partition("{}")[0].replace("{{", "{"))


def test_a_private_key_that_was_cut_off_is_one_too() -> None:
    assert redact_text(f"cat id\n-----BEGIN OPENSSH PRIVATE KEY-----\n{LINE}")[0] == f"cat id\n{MARK}private_key]"


@pytest.mark.parametrize(
    "text",
    [
        "password: HIDDEN1x",
        'password = "HIDDEN 1x"',
        "DB_PASSWORD=HIDDENx",
        "export AWS_SECRET_ACCESS_KEY=HIDDEN1x/y+z",
        '{"apiKey": "HIDDEN"}',
        '{\\"api_key\\": \\"HIDDEN1x\\"}',
        '{"accessToken":"HIDDEN1x"}',
        "'client-secret' => 'HIDDENx'",
        "Authorization: Bearer HIDDEN1x",
        "curl -H 'Authorization: Basic HIDDEN1x'",
        "curl -H 'X-Api-Key: HIDDEN1x'",
        "Cookie: session=HIDDEN1x; theme=HIDDEN",
        "set-cookie: id=HIDDEN1x; Path=/",
        "send bearer HIDDEN1xHIDDEN1xHIDDEN1x along",
        "<function=login>\n<parameter=password>\nHIDDEN one\n</parameter>",
        "<parameter=api_key>\nHIDDEN",
        'passphrase: "it\'s HIDDEN \\"quoted\\" HIDDEN"',
        "pin\npwd: 998877HIDDEN",
        "redis://:HIDDENx@cache:6379/0",
        "postgres://alice:HIDDEN@HIDDEN@db/x",
        "SMTP_PASS=HIDDENx",
        'auth: { user: "a", pass: "HIDDENx" }',
        "PGPASSWORD=HIDDENx psql",
        "spring.datasource.password=HIDDENx\n",
        "mysql --password HIDDEN1x",
        "deploy --api-key 'HIDDEN x' now",
        "<server><password>HIDDENx</password></server>",
        "Endpoint=https://a;AccountName=a;AccountKey=HIDDEN1x==;Suffix=b",
        'APIToken: "HIDDENx"',
        "accesstoken=HIDDEN1x",
        "secret_key_base: HIDDEN1x",
        "whsec_HIDDENHIDDENHIDDEN1x",
        'apiKey := "HIDDENx"',
    ],
)
def test_values_of_keys_are_found_in_text(text: str) -> None:
    clean, kinds = redact_text(text)
    assert "HIDDEN" not in clean
    assert kinds
    assert redact_text(clean) == (clean, frozenset())


@pytest.mark.parametrize(
    "text",
    [
        "def login(password: str, token: str | None) -> None: ...",
        "max_tokens: 128000, tokens = tokenizer.encode(text)",
        "the password is checked in auth.py: see login()",
        "password = get_password()",
        "token = self.tokens[3]",
        '"token": "string"',
        "next_page_token: CAEQAA12",
        "eos_token = '<|im_end|>'",
        "api_key=${API_KEY}",
        "a secret: nobody knows it",
        "https://example.org/a:b@c and user@host.example",
        "cookies are sweet; sk-1; skip-0123456789abcdefghijk",
        "risk-0123456789abcdefghijkl",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "run --token TOKEN or --password <password>, --key-file x1234567",
        "# pass 12\npass: 120, passport: AB1234567, bypass = 'all of it'",
        "    login(\n        password=given\n    )\ntoken=$TOKEN\n",
        "<th>token</th><td>password</td>",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == (text, frozenset())


def test_a_conversation_without_secrets_stays_exact() -> None:
    assert redact_capture(CAPTURE) == CAPTURE
    assert CAPTURE.is_exact


def test_every_place_of_a_request_is_searched() -> None:
    key = SECRETS["api_key"]
    request = ChatRequest(
        "openai.chat",
        "m",
        (
            Message("system", f"system {key}"),
            Message("assistant", f"text {key}", f"thought {key}", (PastCall("c", "f", {"deep": [{"x": f"a {key}"}]}),)),
            Message("tool", json.dumps({"out": key}), call_id="c"),
        ),
        (Tool("f", f"described {key}", {"properties": {"x": {"default": key}}}),),
        stop=(f"stop {key}",),
        demands=Demands(text_schema={"const": key}),
    )
    clean = redact_capture(replace(CAPTURE, request=request, response=f"said {key}"))
    assert key not in json.dumps(clean.plain())
    assert json.dumps(clean.plain()).count(f"{MARK}api_key]") == 10
    assert clean.redacted == ("api_key",)
    assert clean.request.messages[1].calls[0].name == "f"


def test_tokens_go_with_what_they_would_spell() -> None:
    clean = redact_capture(replace(CAPTURE, response="password: hunter22"))
    assert (clean.prompt_ids, clean.kept_ids, clean.lost_ids) == ((), (), ())
    assert (clean.redacted, clean.is_exact) == (("password",), False)
    assert redact_capture(clean) == clean


def test_a_token_of_the_evidence_is_a_number_and_no_secret() -> None:
    assert redact_capture(CAPTURE, [{}, {"token": 1234567, "top1_prob": 0.99}]).is_exact


def test_arguments_are_searched_by_key() -> None:
    arguments = {
        "password": "hunter2",
        "auth": {"apiKey": "k1", "refresh-token": ["r1", {"v": 9}]},
        "PIN_PASSWORD": 1234,
        "max_tokens": 5,
        "token": True,
        "page_token": "p1",
        "path": "src",
    }
    messages = (
        Message("assistant", "", "", (PastCall("c", "login", arguments),)),
        Message("tool", "logged in: hunter2"),
    )
    clean = redact_capture(replace(CAPTURE, request=replace(CAPTURE.request, messages=messages)))
    assert clean.request.messages[0].calls[0].arguments == {
        "password": f"{MARK}password]",
        "auth": {"apiKey": f"{MARK}key]", "refresh-token": [f"{MARK}token]", {"v": f"{MARK}token]"}]},
        "PIN_PASSWORD": f"{MARK}password]",
        "max_tokens": 5,
        "token": True,
        "page_token": "p1",
        "path": "src",
    }
    assert clean.request.messages[1].text == f"logged in: {MARK}password]"


def test_a_word_that_is_somebody_s_password_does_not_break_the_conversation() -> None:
    messages = (Message("user", "password: 'assistant'"), Message("assistant", "an assistant"))
    clean = redact_capture(replace(CAPTURE, request=replace(CAPTURE.request, messages=messages)))
    assert [message.role for message in clean.request.messages] == ["user", "assistant"]
    assert clean.request.messages[1].text == f"an {MARK}password]"


def test_a_schema_may_have_a_property_that_is_called_password() -> None:
    schema = {"properties": {"password": {"type": "string", "description": "of the user"}}, "required": ["password"]}
    request = replace(CAPTURE.request, tools=(Tool("login", "", schema),))
    assert redact_capture(replace(CAPTURE, request=request)).is_exact


PARTS = [
    *SECRETS.values(),
    *"password API_KEY token auth cookie name value key sig Authorization hunter hunter2 a1 Zx9Qw7Lk3Vb5Nm1Pq8".split(),
    *': = " \' ` \\ \\" """ , & ? @ / > </ $ ( ; ] -- curl mysql ENV export Digest https:// [redacted:'.split(),
    *("bearer ", "is ", "|\n  ", "\n", " ", "  ", ", ", " -u a:", " -p", "a=b", "[redacted:key]", "password]"),
]


@given(
    st.text() | st.text(alphabet='pasword:=" \n\\sk-1aZ{}') | st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
)
@settings(max_examples=300)
def test_twice_changes_nothing_more(text: str) -> None:
    clean, _ = redact_text(text)
    assert redact_text(clean) == (clean, frozenset())


def test_the_longest_of_several_secrets_is_taken_and_each_of_them_is_found() -> None:
    text = 'token="abcdef1", secret="abcdef1xyz"; then abcdef1xyzabcdef1 abcdef and abcdef1'
    clean, _ = redact_text(text)
    assert clean.endswith(f"then {MARK}secret]{MARK}token] abcdef and {MARK}token]")


def test_a_password_that_is_a_word_of_our_marks_does_not_break_them() -> None:
    assert redact_text('password="redacted", token="cookie1 redacted"; cookie: a=12345; redacted')[0] == (
        f'password="{MARK}password]", token="{MARK}token]"; cookie: {MARK}cookie]'
    )
    assert redact_text('password="redacted" redacted')[0] == f'password="{MARK}password]" {MARK}password]'


def test_a_name_may_stand_beside_its_value_and_a_value_may_tell_what_it_is() -> None:
    arguments = {
        "env": [{"name": "API_KEY", "value": "hunter2"}, {"Key": "db_password", "Value": "hunter3"}],
        "plain": [{"name": "PATH", "value": "/bin"}, {"name": "token_count", "value": "12"}],
        "auth": "YWxpY2U6aHVudGVy",
        "auth_mode": "basic",
        "OPENAI_KEY": "Zx9Qw7Lk3Vb5Nm1Pq8",
        "cache_key": "Zx9Qw7Lk3Vb5Nm1Pq8",
    }
    messages = (Message("assistant", "", "", (PastCall("c", "run", arguments),)),)
    clean = redact_capture(replace(CAPTURE, request=replace(CAPTURE.request, messages=messages)))
    assert clean.request.messages[0].calls[0].arguments == {
        "env": [{"name": "API_KEY", "value": f"{MARK}key]"}, {"Key": "db_password", "Value": f"{MARK}password]"}],
        "plain": [{"name": "PATH", "value": "/bin"}, {"name": "token_count", "value": "12"}],
        "auth": f"{MARK}key]",
        "auth_mode": "basic",
        "OPENAI_KEY": f"{MARK}key]",
        "cache_key": f"{MARK}key]",  # the same value as above
    }


@pytest.mark.parametrize("folder", ["proxy", "policies", "detectors", "engine", "docs", "examples"])
def test_our_own_code_and_documents_have_no_secrets(folder: str) -> None:
    """2.5 MB of ordinary code and prose, much of it about tokens, keys and passwords."""
    files = [file for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".md", ".toml", ".js", ".service")]
    assert files
    found = set()
    for file in files:
        clean = redact_text(file.read_text(encoding="utf-8").replace(MARK, ""))[0]
        found |= {(file.name, before[-40:]) for before in clean.split(MARK)[:-1]}
    assert found <= NO_SECRETS


HOSTILE = [
    *("page_token=", "password: ", 'page_token="', "page_token='x\" ", "cookie: ", "-token:aaaa", "token=a.a1", "key>"),
    *("://", "://a:b", "://a:b@", "https://a:", "postgres://a/", "AAAAAAAAAAAAAAAAAAAA/", "password: |\n", "token=`"),
    *("-----BEGIN PRIVATE KEY-----\n", "-----BEGIN RSA PRIVATE KEY-----\nMIIabc1 ", "-----BEGIN ", "password: >\n\n"),
    *('password="""', "password='''${", "curl ", "curl -u a:", "mysql -p$", "mysql\\\n", "machine a login b password "),
    *("machine ", " --token", "--", "-", "sk-", "sk-aaaaaaaaaaaaaaaaa-", "eyJaaaaaaaa", "eyJaaaaaaaa.", "ENV "),
    *("ENV API_KEY $A ", "<parameter=token>", "<parameter=", "value: ", '"value": "aaaa", "name": ', "token\n\n\n\n:"),
    *("name: API_KEY value: ", "sig=", "?sig=aaaaaaaaaaaaaaaaaa", "Authorization: ", "Authorization: Digest a=b, "),
    *("bearer ", "bearer aaaaaaaaaaaaaaaaa", "\\", 'token\\":\\"', "A_TOKEN=aaaa(b)", "TOKEN=aaaa \t", "PASSWORD=a;"),
    *(
        "auth: aaaaaaaaaaaaaaa",
        "x_key=aaaaaaaaa1a1",
        "[redacted:",
        "\u0130token: ",
        "openssl -passin pass:",
        "config set ",
    ),
]


@pytest.mark.parametrize("part", HOSTILE)
def test_time_is_linear_whatever_the_text(part: str) -> None:
    """Sixteen times the text: a quadratic search takes 256 times as long; the machine's own noise is far less."""
    small, large = (part * (size // len(part)) for size in (1 << 12, 1 << 16))
    redact_text(small)  # regular expressions warm up
    most = 64 * max(min(_seconds(small) for _ in range(3)), 1e-3)
    assert any(_seconds(large) < most for _ in range(2))


def _seconds(text: str) -> float:
    began = process_time()
    redact_text(text)
    return process_time() - began
