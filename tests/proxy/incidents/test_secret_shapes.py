"""What is a secret wherever it stands, and names that only begin like one."""

from __future__ import annotations

import pytest

from proxy.incidents.redaction import MARK, redact_text
from proxy.incidents.secret_shapes import SHAPES

RANDOM = "Zx9Qw7Lk3Vb5Nm1Pq8"
LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7Zx9Qw7Lk3Vb5"


@pytest.mark.parametrize(
    "text",
    [
        f"xapp-1-A123-{RANDOM}",
        f"SG.{RANDOM}.{RANDOM}{RANDOM}",
        f"dop_v1_{RANDOM}{RANDOM}",
        f"shpat_{RANDOM}{RANDOM}",
        f"AGE-SECRET-KEY-1{RANDOM.upper()}{RANDOM.upper()}{RANDOM.upper()}",
        f"https://hooks.slack.com/services/T000/B000/{RANDOM}",
        f"https://discord.com/api/webhooks/1234567890/{RANDOM}",
        f"gsk_{RANDOM}{RANDOM}",
        f"xai-{RANDOM}{RANDOM}",
        f"nvapi-{RANDOM}{RANDOM}",
        f"hvs.{RANDOM}{RANDOM}",
        f"GOCSPX-{RANDOM}",
        f"ya29.{RANDOM}{RANDOM}",
        f"dckr_pat_{RANDOM}",
        f"sk-ant-api03-{RANDOM}_{RANDOM}",
        f"sk_live_{RANDOM}",
        "sk_live_abcdefGHIJKLmnopqrstUVWX",
        f"\\nsk-{RANDOM}\\n",
        f"https://{RANDOM}@github.com/o/r.git",
        f"git+https://x-access-token:{RANDOM}@github.com",
        f"postgres://u:pa/{RANDOM}@h/db",
        f"postgres://u:p@ss{RANDOM}@h/db",
        f"redis://:{RANDOM}@h:6379",
    ],
)
@pytest.mark.parametrize("around", ["{}", "use '{}' now", '"{}",', "({})", "x={}\n"])
def test_a_shape_is_found_anywhere(text: str, around: str) -> None:
    clean, kinds = redact_text(around.format(text))
    assert RANDOM.lower() not in clean.lower()
    assert "mnopqrst" not in clean
    assert kinds
    assert redact_text(clean) == (clean, frozenset())


@pytest.mark.parametrize(
    "text",
    [
        f"-----BEGIN RSA PRIVATE KEY-----\n{LINE}\n{LINE}\nabc1==\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN RSA PRIVATE KEY-----\r\n{LINE}\r\n{LINE}\r\nabc1==\r\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\\n{LINE}\\n{LINE}\\nabc1==\\n-----END OPENSSH PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\\\\n{LINE}\\\\n-----END PRIVATE KEY-----",
        f'-----BEGIN PRIVATE KEY-----\\n"\n  "{LINE}\\n"\n  "{LINE}\\n"\n  "-----END PRIVATE KEY-----',
        f"-----BEGIN PRIVATE KEY-----\n    {LINE}\n    {LINE}\n    -----END PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n     2\t{LINE}\n     3\t{LINE}\n     4\t-----END PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\nid_rsa:2:{LINE}\nid_rsa:3:{LINE}\nid_rsa:4:-----END PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n+{LINE}\n+{LINE}\n+-----END PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY----- {LINE} {LINE} -----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
        f"DEK-Info: AES-128-CBC,0123456789ABCDEF0123456789ABCDEF\n\n{LINE}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2\n\n{LINE}\n{LINE}\n=aBc1\n"
        "-----END PGP PRIVATE KEY BLOCK-----",
        f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{RANDOM}\n-----END PGP PRIVATE KEY BLOCK-----",
        "-----BEGIN PRIVATE KEY-----\nHIDDEN\n-----END PRIVATE KEY-----",
    ],
)
def test_a_private_key_goes_from_end_to_end_and_no_further(text: str) -> None:
    assert redact_text(f"cat it\n{text}\nand MORE1 text")[0] == f"cat it\n{MARK}private_key]\nand MORE1 text"


@pytest.mark.parametrize("lost", [1, 20, 27, 33, 40, 90, 100])
def test_a_private_key_that_was_cut_off_is_one_too(lost: int) -> None:
    text = f"-----BEGIN RSA PRIVATE KEY-----\n{LINE}\n{LINE}\nabc1==\n-----END RSA PRIVATE KEY-----"
    assert redact_text(f"cat it\n{text[:-lost]}")[0] == f"cat it\n{MARK}private_key]"


def test_a_private_key_of_which_the_middle_was_left_out_is_one_up_to_there() -> None:
    text = f"-----BEGIN RSA PRIVATE KEY-----\n{LINE}\n{LINE}\n[900 lines]\ndef f(): ..."
    assert redact_text(text)[0] == f"{MARK}private_key]\n[900 lines]\ndef f(): ..."


@pytest.mark.parametrize(
    "text",
    [
        "grep '-----BEGIN RSA PRIVATE KEY-----' file && echo hi\nlots of text after",
        "id_rsa:1:-----BEGIN RSA PRIVATE KEY-----\nid_dsa:1:-----BEGIN DSA PRIVATE KEY-----\nREADME.md: how to\n" * 3,
        'if "-----BEGIN PRIVATE KEY-----" in text and "-----END PRIVATE KEY-----" in text:\n    return True\n',
        "-----BEGIN RSA PRIVATE KEY-----\nthat is how it begins, and on we go with much prose\n" + "more prose\n" * 30,
        'START = b"-----BEGIN OPENSSH PRIVATE KEY-----"\nEND = b"-----END OPENSSH PRIVATE KEY-----"\n',
        'HEADER = "-----BEGIN PRIVATE KEY-----"\n\n\ndef read(path: str) -> str:\n    return open(path).read()\n',
        f"-----BEGIN PUBLIC KEY-----\n{LINE}\n-----END PUBLIC KEY-----\nx PRIVATE KEY----- y",
        f"-----BEGIN CERTIFICATE-----\n{LINE}\n-----END CERTIFICATE-----",
        "task-runner_sk-abcdefghijklmnopqrst",
        "/sk-learn-tutorial-notebook-x",
        "sk-learn-contrib-imbalanced",
        "sk-learn-contrib-v2-imbalanced-2024",
        'class="sk-estimator-doc-link-fitted"',
        "pk_constraint_on_users_table",
        "rk_integrator_fourth_order",
        "hf_model_name_or_path_from_config",
        "pypi-publish-workflow-file-name",
        "npm_config_registry_override_flag",
        "xai-grok-model-family-overview-page",
        "SG.internal.module.names.go.here",
        "gsk_rendering_context_new_for_display",
        "docker://a:1@sha256:ab",
        'f"postgres://{user}:{password}@{host}/db"',
        "https://${USER}:${TOKEN}@github.com/o/r",
        "https://$USER:$TOKEN@github.com/o/r",
        "https://<user>:<password>@host/",
        "https://%s:%s@%s/",
        "http://localhost:8080/a@b",
        "http://localhost:${PORT}/@vite/client",
        "https://unpkg.com/react@18 https://medium.com/@somebody-with-a-long-name1",
        "https://a.b/c:d@e",
        "http://localhost:PORT/@vite/client",
        "git@github.com:o/r.git",
        "image: repo/x:1.2@sha256:abcdef",
        "https://hooks.slack.com/services/ is where they go",
        "commit 0473d14aa8f9b2c3d4e5f60718293a4b5c6d7e8f",
        "123e4567-e89b-12d3-a456-426614174000",
        "AKIA is how they begin; eyJ too",
    ],
)
def test_what_only_begins_like_a_secret_stays(text: str) -> None:
    assert redact_text(text) == (text, frozenset())


def test_every_shape_can_be_recognised_by_how_it_begins() -> None:
    assert all(beginnings and all(len(begin) >= 3 for begin in beginnings) for beginnings, _, _ in SHAPES.values())
