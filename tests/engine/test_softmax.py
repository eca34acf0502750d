"""Softmax in parts is softmax; parts that show nothing change no bit."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.softmax import Parts, folded, row_positions, spread_queries, weigh


def parts_of(scores: Tensor, values: Tensor) -> Parts:
    """scores: [kv_heads, queries, keys]; values: [kv_heads, keys, d]."""
    weights = scores[None].clone()
    highest, total = weigh(weights)
    return Parts(highest, total, torch.bmm(weights[0], values))


def drawn(keys: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(keys)
    return torch.randn(2, 6, keys, generator=generator) * 4, torch.randn(2, keys, 8, generator=generator)


def test_two_parts_are_one_softmax() -> None:
    scores, values = drawn(40)
    expected = (scores.softmax(-1) @ values).view(2, 2, 3, 8).permute(2, 0, 1, 3).reshape(3, 32)
    both = parts_of(scores[..., :15], values[:, :15]).and_then(parts_of(scores[..., 15:], values[:, 15:]))
    torch.testing.assert_close(both.output(3), expected)


def test_a_hidden_part_changes_no_bit() -> None:
    scores, values = drawn(16)
    seen = parts_of(scores, values)
    hidden = parts_of(torch.full_like(scores, -torch.inf), values)
    assert torch.equal(seen.and_then(hidden).output(3), seen.output(3))
    assert torch.equal(hidden.and_then(seen).output(3), seen.output(3))
    assert not hidden.output(3).any(), "a row that sees nothing must not spread NaN"


def test_folding_ignores_zeros_behind() -> None:
    parts = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    longer = torch.cat((parts, torch.zeros(6, 3)))
    assert torch.equal(folded(parts), folded(longer))
    torch.testing.assert_close(folded(parts), parts.sum(0))


def test_queries_and_positions_line_up() -> None:
    q = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(2))
    spread = spread_queries(q, 2)
    at = row_positions(10, 3, 2, q.device).flatten().tolist()
    assert at == [10, 11, 12] * 2
    torch.testing.assert_close(spread[1, 4], q[1, 3] * 8**-0.5)
