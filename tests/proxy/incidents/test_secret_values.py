"""Values of names in every notation in which agents and their tools write them."""

from __future__ import annotations

import pytest

from proxy.incidents.redaction import redact_text

RANDOM = "Zx9Qw7Lk3Vb5Nm1Pq8"


@pytest.mark.parametrize(
    "text",
    [
        "os.environ['API_KEY'] = '{}'",
        'process.env["API_KEY"] = "{}";',
        '$env:API_KEY = "{}"',
        'os.environ.setdefault("API_KEY", "{}")',
        "setenv('DB_PASSWORD', '{}', 1)",
        '{{"api_key": "{}"}}',
        '{{\\"api_key\\": \\"{}\\"}}',
        '{{\\\\"api_key\\\\": \\\\"{}\\\\"}}',
        '{{\\\\\\"api_key\\\\\\": \\\\\\"{}\\\\\\"}}',
        '{{\\"password\\": \\"a\\\\\\"b{}\\"}}',
        '{{"password": "a\\"b{}"}}',
        "{{\\'password\\': \\'{}\\'}}",
        "password = 'it''s {}'",
        'password="""{}"""',
        "password = '''\nfirst line {}\nsecond line {}\n'''",
        "const token = `{}`;",
        "password: |\n  {}\n",
        "db:\n  password: >-\n    {}\n    {}\n  user: me\n",
        "  - private_key: |2\n\n      {}\n      {}\n",
        "auth_token: !vault |\n  {}\n",
        '{{"name": "API_KEY", "value": "{}"}}',
        '{{"value": "{}", "name": "API_KEY"}}',
        '{{\\"name\\":\\"API_KEY\\",\\"value\\":\\"{}\\"}}',
        "- name: API_KEY\n  value: {}\n",
        "- name: DB_PASSWORD\n  value: '{}'\n",
        "- name: API_KEY\\n  value: {}\\n",
        '<add key="Password" value="{}"/>',
        '<property name="db.password" value="{}"/>',
        '<string name="api_key">{}</string>',
        "<key>API_KEY</key>\n\t<string>{}</string>",
        "<password>{}</password>",
        "OPENAI_KEY={}",
        "export STRIPE_KEY={}",
        '"OPENAI_KEY": "{}"',
        '{{"auths": {{"h": {{"auth": "{}"}}}}}}',
        '{{"auths": {{"h": {{"auth": "YWxpY2U6aHVudGVy"}}}}}} {}'.replace(" {}", ""),
        "NPM_AUTH={}",
        "ssh-key: {}",
        "deploy_key = '{}'",
        'Authorization: Digest username="u", realm="r", response="{}", qop=auth',
        'curl -H \'Authorization: Digest username="u", response="{}"\' https://h',
        '{{"Authorization": "Digest username=\\"u\\", response=\\"{}\\""}}',
        "Authorization: AWS4-HMAC-SHA256 Credential=A/2/s3, SignedHeaders=host;x, Signature={}",
        'Authorization: AWS4-HMAC Credential="x", Signature={}',
        "Authorization:\n  Bearer {}",
        "Authorization: Bearer\n  {}",
        "authorization: ApiKey {}",
        "https://h/blob?sv=2024&sig={}",
        "https://h/a?X-Amz-Date=1&X-Amz-Signature={}",
        "https://h/?api_key={}&x=1",
        "https://h/?a=1&amp;key={}",
        "PASSWORD=abc;{}",
        "export PASSWORD=a$b(c{}",
        "PASSWORD=abc#{}",
        "Server=x;Pwd={};Database=y",
        "API_KEY\\u003d{}",
        "the password is {}",
        "<parameter=password>\n{} two\n</parameter>",
        "<parameter=env>\nAPI_KEY={}\n</parameter>",
    ],
)
def test_a_value_is_found_in_any_notation(text: str) -> None:
    filled = text.format(*[RANDOM] * text.count("{}"))
    for around in ("{}", "see:\n{}", "{}\nand on it goes", "1\t{}"):
        if around.startswith("1") and "\n" in text:
            continue
        clean, kinds = redact_text(around.format(filled))
        assert RANDOM not in clean
        assert "YWxpY2U6aHVudGVy" not in clean
        assert kinds
        assert redact_text(clean) == (clean, frozenset())
        assert clean.endswith("and on it goes") or "goes" not in around


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ('{"name": "API_KEY", "value": "hunter22"}', '{"name": "API_KEY", "value": "[redacted:key]"}'),
        ("os.environ['API_KEY'] = 'hunter2 x' + y", "os.environ['API_KEY'] = '[redacted:key]' + y"),
        (
            '{\\\\"token\\\\": \\\\"hunter\\\\", \\\\"x\\\\": 1}',
            '{\\\\"token\\\\": \\\\"[redacted:token]\\\\", \\\\"x\\\\": 1}',
        ),
        (
            "a:\n  password: |\n    one\n    two\n  user: me\n",
            "a:\n  password: |\n    [redacted:password]\n  user: me\n",
        ),
        ('password = """hunter\n2"""\nuser = 1', 'password = """[redacted:password]"""\nuser = 1'),
        ("x?sig=Zx9Qw7Lk3Vb5Nm1Pq8&se=2024", "x?sig=[redacted:signature]&se=2024"),
        (
            'Authorization: Digest username="u", response="x1"\nHost: h',
            "Authorization: [redacted:authorization]\nHost: h",
        ),
    ],
)
def test_what_stands_around_a_value_stays(text: str, clean: str) -> None:
    assert redact_text(text)[0] == clean


@pytest.mark.parametrize(
    "text",
    [
        "password = get_password2()",
        "token = tokenizer2.next()",
        "token = obj2.attribute",
        "password = passwords2[0]",
        "secret = SECRETS2.pop(name)",
        "API_KEY=$API_KEY make",
        "API_KEY=%API_KEY%",
        "API_KEY=your_api_key_here",
        "TOKEN=xxxxxxxx",
        "PASSWORD=********",
        'api_key="..."',
        'api_key = os.environ["API_KEY"]',
        'token: "${{ secrets.GITHUB_TOKEN }}"',
        "PRIVATE_KEY=/etc/ssl/private/x1.pem",
        "GOOGLE_APPLICATION_CREDENTIALS=/home/me/key1.json",
        "tests pass: 12345678",
        "Cookie: the word",
        "cookie: chocolate",
        "cache_key: 9f86d081884c7d659a2feaa0c55ad015",
        "CACHE_KEY=9f86d081884c7d659a2feaa0c55ad015",
        'primary_key="user1id2name3of4"',
        'STORAGE_KEY = "app_v1_settings_2024"',
        '"auth": "required"',
        'auth = "basic_or_bearer_or_none"',
        "author: basic instructions-for-everyone",
        "basic authentication-middleware is",
        "bearer authentication-token-handling",
        "Bearer TokenAuthenticationFilter2",
        '{"name": "path", "value": "src/main1.py"}',
        '{"name": "token_count", "value": "1234567"}',
        '{"name": "password", "value": ""}',
        "- name: build\n  value: release1",
        "the `password`: `at least eight characters`",
        "key: value1, sig: 2, signature = inspect.signature(f)",
        "?sig=1&key=name",
        '<label for="password">Your password</label>',
        '<th id="token">Some Header</th>',
        'parser.add_argument("--token", "--api-key", help="of the server")',
        'FIELDS = ["username", "password", "token_name"]',
        'getenv("API_KEY", "")',
        "description: |\n  a token of it\n",
        "the password is checked before; the token is tokenizer2",
        'type Login = { password: "string", token?: "string" }',
        "assert redact('password') == 'secret'",
        "self._workload_auth = _sdk.AsyncX509WorkloadIdentityAuth",
        "auth = _BedrockSigV4Auth(region)",
        "print(\"Token: \" + repr(t)); getpass(prompt='Password: ', stream=None)",
        "authorization = authorization[1].encode('utf-8')",
        'headers["Authorization"] = "Basic %s" % x',
        'headers["Authorization"] = "Bearer " + token',
        'headers = {"Authorization": f"Bearer {api_key}"}',
        "curl -H 'Authorization: Bearer $TOKEN' -H 'X-Api-Key: ${KEY}'",
        "coarse_token=12_050, prefix_token='▁<PRE>'",
        "'Cookie': 'http.cookies'",
        'ENV_API_KEY = "ANTHROPIC_API_KEY"',
        'GRANT_REFRESH_TOKEN = "refresh_token"',
        'private_key: "_RSAPrivateKey", secret="consumer.secret"',
        'JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"',
        'class Token:\n    """One committed token."""\n',
        "`<password>value</password>` is how it looks",
    ],
)
def test_what_only_looks_like_a_value_stays(text: str) -> None:
    assert redact_text(text) == (text, frozenset())
