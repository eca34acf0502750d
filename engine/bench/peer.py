"""The peer: transformers' `generate` on the same folder, prompts, type and threads.

Must not: be needed; a machine without transformers measures the engine alone.
Invariant: it generates exactly as many tokens as the engine did, greedily, with its own cache; prefill is not counted.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch

from engine.bench.workloads import Prompt


class PeerMissing(Exception):
    """The message says why there is no peer."""


class Peer:
    """Raises PeerMissing if transformers is not installed or cannot load the folder."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        try:
            import transformers
            from transformers.utils import logging
        except ImportError:
            raise PeerMissing("transformers is not installed") from None
        quiet: Any = logging
        quiet.set_verbosity_error()
        quiet.disable_progress_bar()
        self.name = f"transformers {transformers.__version__}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    folder, dtype=dtype, local_files_only=True
                )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise PeerMissing(f"{self.name} cannot load {folder.name}: {_line(error)}") from error
        self._model = model.to(device).eval()
        self._model.generation_config.eos_token_id = (
            None  # as many tokens as asked for, without a rule that forbids one
        )
        self._list, self._device = transformers.StoppingCriteriaList, device

    def generate(self, prompt: Prompt, count: int) -> tuple[tuple[int, ...], float, int]:
        """(tokens, seconds, how many tokens these seconds made): the first token belongs to the prefill."""
        stamps: list[float] = []

        def stamp(ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
            if self._device.startswith("cuda"):
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())
            return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)

        # one token more than is counted, so that `count` of them lie between the first stamp and the last
        tokens = self._run(prompt, count + 1, stopping_criteria=self._list([stamp]))
        return tokens[:count], stamps[-1] - stamps[0], len(stamps) - 1

    def prompt_lookup(self, prompt: Prompt, count: int) -> str:
        """`works`, or the message with which prompt lookup is refused."""
        try:
            self._run(prompt, count, prompt_lookup_num_tokens=7)
        except (ValueError, NotImplementedError, RuntimeError, IndexError) as error:
            return f"refused: {type(error).__name__}: {_line(error)}"
        return "works"

    @torch.inference_mode()
    def _run(self, prompt: Prompt, count: int, **extra: Any) -> tuple[int, ...]:
        ids = torch.tensor([prompt.tokens], device=self._device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                use_cache=True,
                max_new_tokens=count,
                **extra,
            )
        return tuple(out[0, ids.shape[1] :].tolist())


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
