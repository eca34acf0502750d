"""The flags of `bench engine`, shared by `python -m engine.bench` and the command `specguard`.

Must not: import torch (the command prints its help without it).
Invariant: an `Options` holds values that can be run; a wrong one is refused by argparse.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

WORKLOADS = ("agent", "rewrite", "fresh", "reuse")
SHAPES = ("qwen3.6-27b",)
DESCRIPTION = (
    "Decodes the same prompts with every drafter on the same weights in one run, with transformers' generate beside "
    "them: tokens/s, tokens per step, acceptance by position, draft and verify time, and the time to the first token "
    "of a conversation's next turn. The tokens of all drafters are compared one by one. With --shape it times random "
    "weights at a real model's size instead. Ratios are medians over interleaved rounds."
)


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure. model None: the embedded one; only: workloads, empty = all; rounds, layers None = default;
    kv: caches instead of drafters."""

    model: Path | None = None
    device: str = "cpu"
    dtype: str | None = None
    threads: int = 1
    quick: bool = False
    peer: bool = True
    only: tuple[str, ...] = ()
    rounds: int | None = None
    shape: str | None = None
    layers: int | None = None
    kv: bool = False

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Options:
        return cls(
            model=parsed.model,
            device=parsed.device,
            dtype=parsed.dtype,
            threads=parsed.threads,
            quick=parsed.quick,
            peer=not parsed.no_peer,
            only=tuple(parsed.only or ()),
            rounds=parsed.rounds,
            shape=parsed.shape,
            layers=parsed.layers,
            kv=parsed.kv,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every flag but --json."""
    parser.add_argument("--model", type=Path, metavar="DIR", help="model folder (default: the embedded one)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "auto"),
        metavar="TYPE",
        help="float32, bfloat16 or auto (default auto, which measures, as the server does; float32 with --kv, "
        "bfloat16 with --shape)",
    )
    parser.add_argument("--threads", type=_positive, default=1, metavar="N", help="torch threads (default 1)")
    parser.add_argument("--quick", action="store_true", help="one round, one conversation each, short replies")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="interleaved rounds (default 5; 1 with --quick)")
    parser.add_argument(
        "--only",
        action="append",
        choices=WORKLOADS,
        metavar="WORKLOAD",
        help="agent, rewrite, fresh or reuse; may be repeated (default all)",
    )
    parser.add_argument(
        "--kv",
        action="store_true",
        help="compressed KV caches instead of drafters: step time, size, quality, and what the way back costs",
    )
    parser.add_argument("--no-peer", action="store_true", help="leave transformers out")
    parser.add_argument("--shape", choices=SHAPES, metavar="NAME", help=f"random weights of {', '.join(SHAPES)}'s size")
    parser.add_argument("--layers", type=_positive, metavar="N", help="with --shape: only the first N layers")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value
