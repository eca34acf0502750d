"""Secrets in command lines, and flags of the same letter that are none."""

from __future__ import annotations

import pytest

from proxy.incidents.redaction import redact_text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("curl -u admin:HIDDEN https://h", "https://h"),
        ("curl -s -X POST --user 'admin:HIDDEN x' https://h", "https://h"),
        ("curl -uadmin:HIDDEN https://h", "https://h"),
        ("curl https://h/a \\\n  -u admin:HIDDEN \\\n  -o x", "-o x"),
        ("curl -x p:1 --proxy-user=me:HIDDEN https://h", "https://h"),
        ("$ curl -u admin:HIDDEN https://h", "https://h"),
        ("mysql -uroot -pHIDDEN db", "db"),
        ("mysqldump -u root -p'HIDDEN x' --all-databases", "--all-databases"),
        ("docker exec db mysql -pHIDDEN -e 'show tables'", "show tables"),
        ("mariadb -h h -pHIDDEN db", "db"),
        ("sshpass -p HIDDEN ssh me@h", "ssh me@h"),
        ("sshpass -pHIDDEN ssh me@h", "ssh me@h"),
        ("run '-token HIDDEN1x'", "run"),
        ("docker login -u me -p HIDDEN registry.example", "registry.example"),
        ("redis-cli -h h -a HIDDEN ping", "ping"),
        ("mongosh -u me -p HIDDEN h", "h"),
        ("openssl rsa -passin pass:HIDDEN -in x", "-in x"),
        ("unzip -P HIDDEN a.zip", "a.zip"),
        ("ENV API_KEY HIDDEN", "ENV API_KEY"),
        ("FROM x\nENV DB_PASSWORD HIDDEN and more\nRUN y", "RUN y"),
        ("setx API_KEY HIDDEN1x", "setx"),
        ("set -gx API_KEY HIDDEN1x", "set -gx"),
        ("setenv API_KEY HIDDEN1x", "setenv"),
        ("aws configure set aws_secret_access_key HIDDEN1x", "aws configure"),
        ("npm config set //registry.example/:_authToken HIDDEN1x", "npm config"),
        ("--token HIDDEN1x", "--token"),
        ("--password HIDDEN1x --verbose", "--verbose"),
        ("deploy\n--api-key 'HIDDEN x'", "deploy"),
        ("keytool -storepassword HIDDEN1x -list", "-list"),
        ('["deploy", "--api-key", "HIDDEN", "--now"]', '"--now"'),
        ("run(['x', '--password', 'HIDDEN'])", "run"),
        ('{"args": [\\"--token\\", \\"HIDDEN\\"]}', "args"),
        ("machine h login u password HIDDEN", "machine h"),
        ("machine h\n  login u\n  password HIDDEN\nmachine i", "machine i"),
    ],
)
def test_a_secret_of_a_command_line_is_found(text: str, kept: str) -> None:
    for around in ("{}", "so:\n{}\nand on", "`{}`", '{{"command": "{}"}}' if '"' not in text else "{}"):
        clean, kinds = redact_text(around.format(text))
        assert "HIDDEN" not in clean
        assert kept in clean
        assert "and on" in clean or "and on" not in around
        assert kinds
        assert redact_text(clean) == (clean, frozenset())


def test_a_password_of_digits_is_one() -> None:
    assert redact_text("sshpass -p 123456 ssh h; curl -u a:123456 h")[0] == (
        "sshpass -p [redacted:password] ssh h; curl -u a:[redacted:password] h"
    )


@pytest.mark.parametrize(
    "text",
    [
        "docker run -u 1000:1000 -p 8080:80 curlimages/curl",
        "docker run -u node:node image",
        "docker run --name mongo -p 27017:27017 mongo; docker run --name login -p 8080 x",
        "curl x | docker run -u node:node image",
        "curl -u $USER:$TOKEN https://h",
        "curl -u admin https://h; chown -u a:b",
        "curl -u '${USER}:${TOKEN}' https://h",
        "mysql -u root -p db; ssh -p 2222 h",
        "mysql -p$PASSWORD -P3306 --prompt x",
        "mysql -u root -p\nmkdir -pv a/b",
        "mkdir -p some/long/path1 && sshpass -e ssh h",
        "docker login -u me --password-stdin; docker run -p 8080:80 x",
        "python -m proxy -p port1 -a all12",
        "openssl rsa -passin env:PASS1 -in x",
        "ENV PATH /usr/local/bin1:$PATH",
        "ENV API_KEY $API_KEY",
        "ENV TOKEN_LIMIT 40961",
        "the env API_KEY variable1",
        "machine learning: login form, password field1",
        "machine {host} login {user} password {password}",
        "run --token TOKEN or --password <password>, --key-file x1234567",
        "--max-tokens 409612 --token-limit 409612",
        'parser.add_argument("--password", "-p", help="the password")',
        'add("--token", "token")',
        "a list\n- token abc1234\n- password xyz1234",
    ],
)
def test_what_is_no_secret_of_a_command_line_stays(text: str) -> None:
    assert redact_text(text) == (text, frozenset())
