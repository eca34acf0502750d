"""Where exactly the secret of a header, an address, an argument or a pair begins and ends."""

from __future__ import annotations

import pytest

from proxy.incidents.secret_fields import field_at, parameters_in

RANDOM = "Zx9Qw7Lk3Vb5Nm1Pq8"


@pytest.mark.parametrize(
    ("text", "secret", "kind"),
    [
        ("Authorization: Bearer hunter\nHost: h", "Bearer hunter", "authorization"),
        ("authorization: hunter22\r\n", "hunter22", "authorization"),
        ('Authorization: Digest a="b c", d=e', 'Digest a="b c", d=e', "authorization"),
        ("'Authorization: OAuth a=\"b\", c=d' https://h", 'OAuth a="b", c=d', "authorization"),
        ("Cookie: a=b; c=d\n", "a=b; c=d", "cookie"),
        (f"bearer {RANDOM}, and", RANDOM, "key"),
        (f"Basic\n  {RANDOM}", RANDOM, "key"),
        (f"?sig={RANDOM}&x=1", RANDOM, "signature"),
        (f"\\u0026X-Amz-Signature={RANDOM}", RANDOM, "signature"),
        ('"name": "TOKEN", "value": "hunter"}', "hunter", "token"),
        ('"value": "hunter", "name": "TOKEN"}', "hunter", "token"),
        ("- name: TOKEN\n  value: hunter\n", "hunter", "token"),
    ],
)
def test_a_field(text: str, secret: str, kind: str) -> None:
    found = {span for at in range(len(text)) if (span := field_at(text, at))}
    assert {(text[start:end], kind) for start, end, kind in found} == {(secret, kind)}


@pytest.mark.parametrize(
    "text",
    [
        "authorization: the user must be an admin",
        "authorization = get_header(request2)",
        "Authorization: Bearer $TOKEN",
        "Cookie: the word; cookie: str = x",
        "cookie: a == b",
        "?sig=name&key=value",
        f"sig={RANDOM}",
        '"name": "path", "value": "hunter2"',
        '"name": "TOKEN", "value": "${TOKEN}"',
        '"name": "TOKEN", "default_value": "x", "valued": "hunter2"',
        "basic authentication-middleware",
    ],
)
def test_no_field(text: str) -> None:
    assert not any(field_at(text, at) for at in range(len(text)))


def test_an_argument_goes_to_its_end_tag_or_to_the_end() -> None:
    text = "<parameter=token>\none\ntwo\n</parameter><parameter=path>\nx</parameter><parameter=api_key>\nthree"
    assert [text[start:end] for start, end, _ in parameters_in(text)] == ["one\ntwo", "three"]
