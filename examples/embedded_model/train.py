"""Trains the embedded model: a copying phase, then repair episodes; exports a Hugging Face folder as it goes.

    python -m examples.embedded_model.train --minutes 60 --workers 2 --out runs/model [--device cuda] [--resume]

Must not: see a held-out task. Invariant: the schedule depends on elapsed training time, so `--minutes` is the budget
on any machine; a checkpoint holds everything that `--resume` needs. Why a copying phase: induction heads do not form
by themselves in a budget of minutes; `initial` writes one, and the copying phase tunes it (figures: model card).
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from examples.embedded_model.episodes import BODY_WEIGHT, encode, make_episode
from examples.embedded_model.export import export
from examples.embedded_model.initial import initialise
from examples.embedded_model.model import Shape, TrainableModel
from examples.embedded_model.tasks import make_task
from examples.embedded_model.vocabulary import train_tokenizer

BATCH_TOKENS = 3_000
CONTEXT_SAMPLE = 0.2
"""Share of the tokens with less than BODY_WEIGHT that enter the loss of a step (their weight rises in proportion)."""
COPY_SHARE = 0.03
MTP_WEIGHTS = (0.4, 0.15)
LEARNING_RATE = 1e-3
Batch = tuple[np.ndarray, np.ndarray]


def episode_batches(tokenizer_json: str, first_seed: int, prefixed: Any, queue: Any) -> None:
    """Fills `queue` with padded batches of episodes of similar length; runs in a process of its own.

    prefixed: shared float, the share of episodes that show the constant system turn. It is a third of the tokens and
    teaches nothing, so most of the training leaves it out.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)
    seed = first_seed
    while True:
        pool = []
        for _ in range(64):
            rng = random.Random(seed)
            bare = rng.random() >= prefixed.value
            pool.append(encode(make_episode(make_task(seed), rng), tokenizer, bare=bare))
            seed += 1
        pool.sort(key=lambda item: len(item[0]))
        batches: list[Batch] = []
        rows: list[Batch] = []
        for item in pool:
            if rows and (len(rows) + 1) * len(item[0]) > BATCH_TOKENS:
                batches.append(pad(rows))
                rows = []
            rows.append(item)
        batches.append(pad(rows))
        random.Random(seed).shuffle(batches)
        for batch in batches:
            queue.put((*batch, seed))


def pad(rows: list[Batch]) -> Batch:
    """Token ids and weights [b, t], padded with id 0 and weight 0."""
    size = max(len(ids) for ids, _ in rows)
    tokens = np.zeros((len(rows), size), dtype=np.int64)
    weights = np.zeros((len(rows), size), dtype=np.float32)
    for i, (ids, w) in enumerate(rows):
        tokens[i, : len(ids)], weights[i, : len(ids)] = ids, w
    return tokens, weights


def copy_batch(rng: np.random.Generator, vocab: int, rows: int) -> Batch:
    """Random strings of tokens, each repeated once; loss on the repetition only.

    Drawn from 5 to 300 different tokens: with few of them a match of one token means nothing, as in code.
    """
    size, alphabet = int(rng.integers(40, 130)), int(np.exp(rng.uniform(np.log(5), np.log(300))))
    half = np.stack([rng.choice(rng.integers(13, vocab, alphabet), size) for _ in range(rows)])
    weights = np.zeros((rows, 2 * size), dtype=np.float32)
    weights[:, size + 3 :] = 1.0
    return np.concatenate((half, half), axis=1), weights


def loss_of(model: TrainableModel, tokens: Tensor, weights: Tensor, depths: int = 3) -> tuple[Tensor, list[float]]:
    """Weighted next-token loss plus chained MTP losses (depths - 1 of them), and plain values in nats.

    The values: sum and count over the tokens of fixes, then the mean over all written tokens for each depth. The MTP
    losses cover written tokens only: drafts are needed where the assistant writes.
    """
    hidden = model(tokens)
    rope = model.rope(tokens.shape[1], tokens.device)
    total, shown = torch.zeros((), device=tokens.device), []
    state, embedded = hidden, model.model.embed_tokens(tokens)
    sampled = (weights > 0) & (torch.rand_like(weights) < CONTEXT_SAMPLE)
    for depth, share in enumerate((1.0, *MTP_WEIGHTS)[:depths]):
        if depth:
            # row t: hidden of t (or of the chained step before) with the embedding of token t + depth
            state = model.mtp(F.pad(embedded[:, depth:], (0, 0, 0, depth)), state, rope)
        length = tokens.shape[1] - 1 - depth
        wanted, w = tokens[:, 1 + depth :], weights[:, 1 + depth :]
        full, sure = w >= 1, w >= BODY_WEIGHT
        picked = full if depth else sure | sampled[:, 1:]
        logits = model.logits(state[:, :length][picked]).float()
        losses = F.cross_entropy(logits, wanted[picked], reduction="none")
        strong = (torch.ones_like(w) if depth else torch.where(sure, w, w / CONTEXT_SAMPLE))[picked]
        total = total + share * (losses * strong).sum() / strong.sum()
        if depth == 0:
            fixes = losses.detach()[w[picked] > 1]
            shown += [float(fixes.sum()), float(fixes.numel())]
        shown.append(float(losses.detach()[full[picked]].mean()))
    return total, shown


@dataclass(slots=True)
class Progress:
    """What a checkpoint remembers besides weights and optimiser state."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    seed: int = 0


def learning_rate(fraction: float, step: int) -> float:
    """Multiplier over the budget: 30 steps of warm-up, flat, cosine to 3 % over the last 60 %."""
    if step < 30:
        return (step + 1) / 30
    if fraction < 0.4:
        return 1.0
    return 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min((fraction - 0.4) / 0.6, 1.0)))


def average(model: TrainableModel, extra: list[float], workers: int) -> list[float]:
    """Averages gradients and a few numbers over all workers, so that every worker takes the same step."""
    if workers == 1:
        return extra
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor(extra)])
    torch.distributed.all_reduce(flat)
    flat /= workers
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
    return [float(x) for x in flat[at:]]


def train(rank: int, arguments: argparse.Namespace) -> None:
    """One worker; worker 0 also reports and saves."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    out = Path(arguments.out)
    if arguments.workers > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{out.resolve() / 'meeting'}", rank=rank, world_size=arguments.workers
        )
    device = torch.device(arguments.device)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    shape = Shape(vocab_size=tokenizer.get_vocab_size())
    model = TrainableModel(shape)
    initialise(model)
    model.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    done = Progress(seed=arguments.first_seed + rank * 100_000_000)
    checkpoint = out / "checkpoint.pt"
    if arguments.resume:
        done = resume(checkpoint, model, optimiser)
        done.seed += rank * 100_000_000
    if rank == 0:
        print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    context = multiprocessing.get_context("spawn")
    prefixed = context.Value("d", 0.2)
    queue: Any = context.Queue(maxsize=16)
    source = context.Process(target=episode_batches, args=(tokenizer.to_str(), done.seed, prefixed, queue), daemon=True)
    source.start()
    rng = np.random.default_rng((arguments.seed, rank, done.step))
    budget, saved = arguments.minutes * 60.0, time.monotonic()
    shown = [0.0] * 4
    while done.seconds < budget:
        started = time.monotonic()
        copying = done.step < arguments.copy_steps
        if copying or rng.random() < COPY_SHARE:
            batch = copy_batch(rng, shape.vocab_size, 16)
        else:
            # a generator that died must not hang the training
            ids, weights, done.seed = queue.get(timeout=120)
            batch = ids, weights
        tokens, weights = (torch.from_numpy(x).to(device) for x in batch)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            # each draft of the MTP block costs a seventh of a step, so it learns one from half of the batches and two
            # from every fourth
            loss, values = loss_of(model, tokens, weights, depths=1 if copying else (3, 1, 2, 1)[done.step % 4])
        torch.autograd.backward(loss)
        size, fixes, fixed, *values = average(model, [float(tokens.numel()), *values], arguments.workers)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate(done.seconds / budget, done.step)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        prefixed.value = 0.2 if done.seconds < 0.85 * budget else 1.0
        done.step += 1
        done.tokens += int(size * arguments.workers)
        # every worker must see the same clock, or their learning rates part
        spent = average(model, [time.monotonic() - started], arguments.workers)[0]
        done.seconds += spent
        for i, value in enumerate((fixes / fixed if fixed else shown[0], *values)):
            shown[i] = 0.9 * shown[i] + 0.1 * value if shown[i] else value
        if rank:
            continue
        if done.step % 20 == 0:
            losses = " ".join(f"{v:.3f}" for v in shown)
            print(
                f"step {done.step}  {done.seconds / 60:.1f}/{arguments.minutes:g} min  {done.tokens / 1e6:.2f} M tokens"
                f"  loss fix/text/mtp {losses}  {size * arguments.workers / spent:.0f} tok/s"
                f"{'  (copying)' if copying else ''}",
                flush=True,
            )
        if time.monotonic() - saved > arguments.save_minutes * 60:
            saved = time.monotonic()
            save(checkpoint, model, optimiser, done)
            export(model, tokenizer, out / "export")
    if rank == 0:
        save(checkpoint, model, optimiser, done)
        export(model, tokenizer, out / "export")
    source.terminate()


def save(path: Path, model: TrainableModel, optimiser: torch.optim.Optimizer, done: Progress) -> None:
    """Writes beside and renames, so that a crash never leaves half a checkpoint."""
    part = path.with_suffix(".part")
    torch.save(
        {
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "progress": (done.step, done.tokens, done.seconds, done.seed),
        },
        part,
    )
    part.replace(path)


def resume(path: Path, model: TrainableModel, optimiser: torch.optim.Optimizer) -> Progress:
    if not path.exists():
        raise SystemExit(f"--resume: there is no {path}; start without --resume")
    kept = torch.load(path, weights_only=True)
    model.load_state_dict(kept["model"])
    optimiser.load_state_dict(kept["optimiser"])
    return Progress(*kept["progress"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="training time, checkpoints excluded")
    parser.add_argument("--out", default="runs/model", help="folder for checkpoints and export/")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that train together (CPU)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=1_000_000, help="seed of the first training episode")
    parser.add_argument("--copy-steps", type=int, default=40, help="first steps, on copying alone")
    parser.add_argument("--save-minutes", type=float, default=4.0)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "meeting").unlink(missing_ok=True)
    if not (out / "tokenizer.json").exists():
        train_tokenizer(arguments.vocab).save(str(out / "tokenizer.json"))
    if arguments.workers == 1:
        train(0, arguments)
    else:
        torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
            train, (arguments,), nprocs=arguments.workers
        )


if __name__ == "__main__":
    main()
