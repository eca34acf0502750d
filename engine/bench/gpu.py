"""Everything about CUDA in one call, for a machine with a GPU: `python -m engine.bench.gpu --out DIR`.

Must not: need more than the engine does (pytest and transformers add the test-suite's CUDA half), or stop at a failure.
Invariant: the status is 0 only if every part ran and held, 1 if one failed, 3 if none failed and one could not run;
that one is in the report with its reason.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from engine.bench.arguments import SHAPES, Options
from engine.bench.kv.contexts import random_model
from engine.bench.run import run
from engine.bench.shape import shape_config
from engine.codecs.spec import CODECS, SPECS
from engine.engine import EMBEDDED, Engine, EngineOptions
from engine.kernels.check import check_kernels
from engine.kernels.switch import Kernels
from engine.selftest import self_test

HEAD_DIMS = (64, 80, 96, 128, 256)
SUITES = (
    "tests/engine/kernels",
    "tests/engine/test_codec_lossless.py",
    "tests/engine/test_capture_check.py",
    "tests/engine/test_host_waits.py",
)
SMALL = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}


@dataclass(frozen=True, slots=True)
class Part:
    """holds: whether it ran and found nothing; told: lines for a person; data: for machines; ran: False where something
    that it needs is not installed, which says nothing about the device."""

    name: str
    holds: bool
    told: str
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    ran: bool = True

    @property
    def state(self) -> str:
        return "holds" if self.holds else "FAILED" if self.ran else "not run"


def exactness(device: str, dtype: str) -> Part:
    """The engine's own start-up self-test, on the embedded model."""
    engine = Engine(EMBEDDED, EngineOptions(device=device, dtype=dtype))
    test = engine.self_test()
    reader = "triton" if engine.model.kernels.on else f"torch operators ({engine.model.kernels.why or 'a CPU'})"
    captures = engine.model.captures
    steps = f"{len(captures)} pieces captured" if captures.on else f"steps not captured ({captures.why})"
    told = f"{test.exactness}, {test.mismatches} of {test.rows} rows differ, {test.blocks} blocks together; {reader}"
    holds = test.exactness == "bitwise" and captures.on and read_as_wanted(engine.model.kernels, device)
    data = asdict(test) | {"codes_read_by": reader, "captured": captures.on, "not_captured_because": captures.why}
    return Part(f"exactness, {dtype}", holds, f"{told}; {steps}", data)


def read_as_wanted(kernels: Kernels, device: str) -> bool:
    """Falling back to operators is right for a server, and a finding here."""
    return kernels.on or torch.device(device).type == "cpu"


def kernels(device: str, dim: int, codecs: Sequence[str] = CODECS) -> Part:
    """Triton against operators at one head size, and speculative against plain rows with every codec."""
    config = shape_config(SHAPES[0], 4, **SMALL, head_dim=dim)
    model = random_model(config, 1024, device, torch.float32 if device == "cpu" else torch.bfloat16)
    was_on = model.kernels.on
    checks = check_kernels(model, [codec for codec in codecs if codec in SPECS]) if was_on else []
    tests = {codec: self_test(model, max_blocks=1, codec=codec) for codec in codecs}
    lines = [f"{check.codec}: {check.off:.1e} off, {'same' if check.equal else 'OTHER'} bits" for check in checks]
    lines += [f"{codec}: speculative rows {test.exactness}" for codec, test in tests.items()]
    lines += [f"operators: {model.kernels.why or 'a CPU'}"] if not model.kernels.on else []
    holds = all(test.exactness == "bitwise" for test in tests.values())
    data = {"checks": [asdict(c) for c in checks], "tests": {codec: asdict(test) for codec, test in tests.items()}}
    return Part(f"head_dim {dim}", holds and read_as_wanted(model.kernels, device), "\n".join(lines), data)


def suites() -> Part:
    """The tests that need a device."""
    missing = [name for name in ("pytest", "transformers") if importlib.util.find_spec(name) is None]
    root = Path(__file__).parents[2]
    if missing or not (root / SUITES[0]).exists():
        told = f"{', '.join(missing) or 'the tests'} not installed here"
        return Part("test suites", False, told, ran=False)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", *SUITES, "-k", "kernels or cuda"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return Part("test suites", done.returncode == 0, "\n".join(done.stdout.splitlines()[-15:]))


def tables(options: Options) -> Part:
    """`bench engine --kv --shape`, or without --kv the decode step of the whole model."""
    report = run(options, lambda line: print(f"  {line}", flush=True))
    name = f"tables{' of caches' if options.kv else ''}, {options.shape}"
    return Part(name, not report.missed, report.text(), report.plain())


def timed(name: str, call: Callable[[], Part]) -> Part:
    """A part that fails to run is a part that does not hold."""
    print(name, flush=True)
    started = time.perf_counter()
    try:
        part = call()
    except Exception as error:  # whatever it is, the other parts still run
        part = Part(name, False, f"{type(error).__name__}: {error}")
    return replace(part, seconds=time.perf_counter() - started)


def named(parts: Sequence[Part], state: str) -> list[str]:
    return [part.name for part in parts if part.state == state]


def write(folder: Path, about: dict[str, Any], parts: Sequence[Part]) -> None:
    """report.json and report.md."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "about": about,
        "failed": named(parts, "FAILED"),
        "not_run": named(parts, "not run"),
        "parts": [asdict(p) for p in parts],
    }
    (folder / "report.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    lines = ["# CUDA report", "", *(f"- {name}: {value}" for name, value in about.items())]
    for part in parts:
        lines += ["", f"## {part.name}: {part.state} ({part.seconds:.0f} s)", "", "```", part.told, "```"]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".gpu-report"), metavar="DIR", help="default .gpu-report")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N (default cuda); cpu tries the script itself")
    parser.add_argument("--layers", type=int, metavar="N", help="only the first N layers of the large shape")
    parser.add_argument("--quick", action="store_true", help="short contexts, one head size")
    parser.add_argument("--no-tables", action="store_true", help="checks only")
    parser.add_argument("--no-suites", action="store_true", help="leave the test suites out")
    parsed = parser.parse_args(arguments)
    try:
        torch.zeros(1, device=parsed.device)
    except (RuntimeError, AssertionError) as error:
        print(f"device: {parsed.device!r} cannot be used: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    device = parsed.device
    jobs: list[tuple[str, Callable[[], Part]]] = [
        (f"exactness, {dtype}", lambda dtype=dtype: exactness(device, dtype))  # type: ignore[misc]
        for dtype in ("float32", "bfloat16")
    ]
    dims = HEAD_DIMS[:1] if parsed.quick else HEAD_DIMS
    jobs += [(f"head_dim {dim}", lambda dim=dim: kernels(device, dim)) for dim in dims]  # type: ignore[misc]
    if not parsed.no_suites:
        jobs.append(("test suites", suites))
    if not parsed.no_tables:
        for kv in (True, False):
            options = Options(device=device, quick=parsed.quick, shape=SHAPES[0], layers=parsed.layers, kv=kv)
            jobs.append((f"tables{' of caches' if kv else ''}", lambda options=options: tables(options)))  # type: ignore[misc]
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    about = {"device": f"{device} ({name})", "torch": torch.__version__, "python": platform.python_version()}
    parts = [timed(*job) for job in jobs]
    write(parsed.out, about, parts)
    failed, idle = named(parts, "FAILED"), named(parts, "not run")
    told = [f"{word}: {', '.join(names)}" for word, names in (("failed", failed), ("not run", idle)) if names]
    print(f"{parsed.out / 'report.md'}: {'; '.join(told) or 'everything holds'}")
    return 1 if failed else 3 if idle else 0


if __name__ == "__main__":
    sys.exit(main())
