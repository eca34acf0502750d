"""The questions of a canary: repeatable, alike up to their end, and strict about the answers."""

from __future__ import annotations

import re
from itertools import takewhile

import pytest

from detectors.parts import Part
from proxy.backends.base import EndReason
from proxy.trust.canary_prompts import ANSWER_TOKENS, TOOL, Answered, Spoken, canaries, read_answer
from tests.proxy.scripted import call_text, cut, token_id


def answer(text: str) -> Answered:
    return [Spoken(token_id(piece), piece) for piece in cut(text)], "length"


def code_of(sentences: int, seed: int) -> str:
    found = re.search(
        r"access code of the depot is (\d{4})\.", canaries(sentences, seed, "m")[0].request.messages[1].text
    )
    assert found is not None
    return found[1]


def passes(name: str, text: str, thinking: bool = False) -> bool:
    canary = next(each for each in canaries(5, 3, "m", thinking) if each.name == name)
    assert canary.check is not None
    return canary.check(answer(text))


def test_the_same_length_and_seed_give_the_same_questions() -> None:
    ours, again = canaries(40, 7, "m"), canaries(40, 7, "m")
    assert [each.request for each in ours] == [each.request for each in again]
    assert canaries(40, 8, "m")[0].request != ours[0].request
    assert len(canaries(80, 7, "m")[0].request.messages[1].text) > 1.8 * len(ours[0].request.messages[1].text)


def test_all_questions_share_everything_but_their_last_line() -> None:
    texts = [each.request.messages[1].text for each in canaries(40, 7, "m")]
    common = "".join(letters[0] for letters in takewhile(lambda x: len(set(x)) == 1, zip(*texts, strict=False)))
    assert all(text.startswith(common) and len(text) - len(common) < 100 for text in texts)
    assert code_of(40, 7) in common
    first, *others = canaries(40, 7, "m")
    assert all(each.request.messages[0] == first.request.messages[0] for each in others)
    assert all(each.request.tools == first.request.tools for each in others)


def test_no_two_sentences_are_alike() -> None:
    sentences = canaries(300, 7, "m")[0].request.messages[1].text.split("(")
    assert len(set(sentences)) == len(sentences)


def test_requests_are_bounded_and_seeded_and_one_draws() -> None:
    requests = [each.request for each in canaries(1, 7, "m")]
    assert {(r.max_tokens, r.sampling.seed) for r in requests} == {(ANSWER_TOKENS, 7)}
    assert [r.sampling.temperature for r in requests] == [0, 0, 0, 0.8]
    assert canaries(1, 7, "m")[3].check is None


CODE = code_of(5, 3)
WRONG = f"{(int(CODE) + 1) % 10_000:04}"


@pytest.mark.parametrize(
    ("name", "text", "right"),
    [
        ("needle", f"The code is {CODE}.", True),
        ("needle", f"The code is {WRONG}.", False),
        ("needle", f"{CODE}0", False),
        ("needle", "", False),
        ("call", call_text("open_depot", code=CODE), True),
        ("call", f"Of course. {call_text('open_depot', code=CODE)}", True),
        ("call", call_text("open_depot", code=WRONG), False),
        ("call", call_text("open_door", code=CODE), False),
        ("call", call_text("open_depot", code=CODE, force="yes"), False),
        ("call", call_text("open_depot", code=CODE)[:-30], False),
        ("call", f"open_depot({CODE})", False),
        ("json", f'{{"code": "{CODE}"}}', True),
        ("json", f'```json\n{{"code": "{CODE}"}}\n```', True),
        ("json", f'{{"code": "{WRONG}"}}', False),
        ("json", f'{{"code": "{CODE}"', False),
        ("json", f"code: {CODE}", False),
    ],
)
def test_only_right_answers_pass(name: str, text: str, right: bool) -> None:
    assert passes(name, text) is right


def test_what_is_only_thought_is_no_answer() -> None:
    assert not passes("needle", f"It may be {CODE}.</think>I do not know.", thinking=True)
    assert passes("needle", f"Let me see.</think>{CODE}", thinking=True)
    text, calls = read_answer(answer(f"hm</think>yes {call_text(TOOL.name, code='1234')}"), True)
    assert text.strip() == "yes" and calls[0].arguments == '{"code":"1234"}'


def placed(*said: Part, end: EndReason = "stop") -> Answered:
    return [Spoken(number, part.text, (part,)) for number, part in enumerate(said)], end


def test_answers_whose_channels_others_have_told_apart() -> None:
    canary = {each.name: each for each in canaries(5, 3, "m")}
    call = (Part("call", '{"code": ', 0, "open_depot"), Part("call", f'"{CODE}"}}'))
    checks = {name: each.check for name, each in canary.items() if each.check is not None}
    assert checks["call"](placed(*call))
    assert checks["call"](placed(Part("thinking", "a call?"), *call))
    assert not checks["call"](placed(call[0])) and not checks["call"](placed(*call, end="length"))
    assert not checks["call"](placed(Part("call", f'{{"code": "{WRONG}"}}', 0, "open_depot")))
    assert not checks["call"](placed(Part("call", f'{{"code=": "{CODE}"}}', 0, "open_depot")))
    assert checks["needle"](placed(Part("text", f"It is {CODE}.")))
    assert not checks["needle"](placed(Part("thinking", f"It is {CODE}.")))
    assert checks["json"](placed(Part("text", f'{{"code": "{CODE}"}}'))) and not checks["json"](placed(Part("text")))
    assert canaries(1, 3, "m", tokens=77)[0].request.max_tokens == 77
