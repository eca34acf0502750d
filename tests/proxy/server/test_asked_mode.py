"""What a request does not name stays the server's; what the model cannot do is refused by the field at fault."""

from __future__ import annotations

import pytest

from policies.modes import PLAIN, DecodeMode
from proxy.conversation import Decoding
from proxy.errors import RequestError
from proxy.server.asked_mode import asked_mode

SERVER = DecodeMode("mtp+ngram", "k8v8")
MODES = [str(DecodeMode(d, c)) for d in ("none", "ngram", "mtp", "mtp+ngram") for c in ("full", "k8v8", "k4v4")]
HEADLESS = [mode for mode in MODES if "mtp" not in mode]


@pytest.mark.parametrize(
    ("asked", "mode"),
    [
        (Decoding(), "mtp+ngram/k8v8"),
        (Decoding(None, None, 3), "mtp+ngram/k8v8"),
        (Decoding("none"), "none/k8v8"),
        (Decoding("ngram"), "ngram/k8v8"),
        (Decoding(None, "full"), "mtp+ngram/full"),
        (Decoding("none", "full"), "plain"),
        (Decoding("any", "k4v4"), "mtp+ngram/k4v4"),
    ],
)
def test_what_is_not_named_stays_the_servers(asked: Decoding, mode: str) -> None:
    assert str(asked_mode(asked, SERVER, MODES)) == mode


def test_drafts_on_a_server_without() -> None:
    assert str(asked_mode(Decoding("any"), PLAIN, MODES)) == "mtp+ngram/full"
    assert str(asked_mode(Decoding("any"), PLAIN, HEADLESS)) == "ngram/full"
    assert str(asked_mode(Decoding("any"), PLAIN, ())) == "ngram/full"


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        (Decoding("mtp"), "speculative.types", "'mtp' is not available with this model; use one of 'ngram', 'none'"),
        (Decoding(None, "k3v3"), "kv", "'k3v3' is not available with this model; use one of 'full', 'k4v4', 'k8v8'"),
    ],
)
def test_what_the_model_cannot_do(asked: Decoding, param: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked_mode(asked, DecodeMode("ngram"), HEADLESS)
    assert (caught.value.kind, caught.value.param) == ("invalid_request", param)
    assert caught.value.message == f"{param}: {words}"


def test_a_server_may_keep_the_choice_to_itself() -> None:
    assert asked_mode(Decoding(), SERVER, MODES, allowed=False) == SERVER
    for asked, param in ((Decoding("none"), "speculative"), (Decoding(None, "full"), "kv"), (Decoding("none"), "spec")):
        with pytest.raises(RequestError, match=param) as caught:
            asked_mode(asked, SERVER, MODES, allowed=False)
        assert caught.value.kind == "forbidden"


def test_lanes_switch_drafts_off_by_taking_the_plain_one() -> None:
    fast, ladder = DecodeMode("mtp", "k4v4"), ("mtp/k4v4", "plain")
    assert asked_mode(Decoding("none"), fast, ladder, ladder=ladder) == PLAIN
    assert asked_mode(Decoding(), fast, ladder, ladder=ladder) == fast
    with pytest.raises(RequestError, match="kv"):
        asked_mode(Decoding("none", "k8v8"), fast, ladder, ladder=ladder)
