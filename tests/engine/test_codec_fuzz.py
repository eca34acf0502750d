"""Random lives of compressed sequences against one that was never disturbed: drafts right and wrong, rewinds near and
far (into what has left the window too), trusted or not, clones and forks in between."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.codecs.spec import SPECS
from engine.model import Model
from engine.sequence import Sequence
from engine.shadow import ShadowBudget
from tests.engine.zoo import write

LIFE = 60
SOURCES = ("hybrid", "attention alone")


@pytest.fixture(scope="module", params=SOURCES)
def model(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.load(tiny_folder if request.param == "hybrid" else write(tmp_path_factory.mktemp("fuzz"), "qwen3"))


def begun(model: Model, prompt: list[int], codec: str, shadow: int | None) -> Sequence:
    sequence = Sequence(model, codec=codec)
    sequence.shadows = ShadowBudget(shadow) if shadow is not None else None
    sequence.state = sequence._new_state()
    sequence.begin(prompt)
    list(sequence.prefill())
    return sequence


def live(sequence: Sequence, truth: list[int], rng: random.Random) -> None:
    """Until all of `truth` is committed: a step, or now and then a rewind."""
    turns = 0
    prompt = sequence.prefilled
    while sequence.length < len(truth) - 1:
        turns += 1
        if turns < LIFE and rng.random() < 0.12 and sequence.length > prompt:
            back = rng.choice((3, 20, 70, 400))
            target = rng.randint(max(sequence.length - back, prompt), sequence.length)
            sequence.rewind(target, trusted=rng.random() < 0.3)
            continue
        at = len(sequence.tokens)
        right = min(rng.randint(0, 7), len(truth) - 1 - at)
        drafts = [*truth[at : at + right], *[rng.randrange(250) for _ in range(rng.randint(0, 7 - max(right, 0)))]]
        rows = sequence.decode(drafts)
        new = truth[at : at + right + 1]
        sequence.commit(new, rows.hidden[: len(new)], speculative=bool(drafts))


@pytest.mark.parametrize(
    "shadow",
    [
        pytest.param(None, id="codes"),
        pytest.param(1 << 30, id="shadow"),
        pytest.param(1, id="no room", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("codec", ["k4v4", *(pytest.param(c, marks=pytest.mark.slow) for c in SPECS if c != "k4v4")])
def test_no_life_leaves_a_trace(model: Model, codec: str, shadow: int | None) -> None:
    rng = random.Random(f"{codec}{shadow}")
    # without a shadow long enough that rewinds reach behind the window
    for size, response in ((90, 280), (245, 80)) if shadow is None else ((245, 150),):
        truth = [rng.randrange(250) for _ in range(size + response)]
        calm = begun(model, truth[:size], codec, shadow)
        for token in truth[size:]:
            rows = calm.decode()
            calm.commit([token], rows.hidden, speculative=False)
        wild = begun(model, truth[:size], codec, shadow)
        live(wild, truth, rng)
        assert wild.tokens == calm.tokens
        assert wild.length == calm.length
        assert wild.state.fingerprint() == calm.state.fingerprint()
        assert [c.codec for c in wild.state.kv] == [c.codec for c in calm.state.kv]
