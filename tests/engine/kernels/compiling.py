"""Compiles the kernels for a device that need not be there: `python -m tests.engine.kernels.compiling ARCH CODEC`.

Prints the bytes of shared memory of each shape. In a process of its own, because triton decides once whether it
compiles or interprets.
"""

from __future__ import annotations

import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.codecs.quantiser import Scratch, quantiser
from engine.codecs.spec import SPECS
from engine.compressed import Layout
from engine.kernels import attend

CPU = torch.device("cpu")
POINTERS = "query shift edges key_codes key_scale key_table value_codes value_scale value_table highest total mixed"


def compiled(arch: int, codec: str, queries: int) -> int:
    spec = SPECS[codec]
    keys, values = (quantiser(bits, 256, CPU) for bits in (spec.key_bits, spec.value_bits))
    layout = Layout(codec, spec.header, 4, 256, torch.bfloat16, CPU, 128, keys, values, Scratch(CPU))
    tiling = attend.TILINGS[0]
    constants = attend.sizes(layout, queries, tiling)
    types = dict.fromkeys(POINTERS.split(), "*fp32") | {"edges": "*i64", "key_scale": "*fp16", "value_scale": "*fp16"}
    types |= {"key_codes": "*i8" if keys.bits == 8 else "*u8", "value_codes": "*i8" if values.bits == 8 else "*u8"}
    signature = types | dict.fromkeys(("pending", "lowest", "splits"), "i32") | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        fn=attend.attend_split,
        signature=signature,
        constexprs=constants,
        attrs={(index,): [["tt.divisibility", 16]] for index in range(len(types))},
    )
    options = {"num_warps": tiling.warps, "num_stages": 1}
    found = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    assert found.asm["cubin"]
    return int(found.metadata.shared)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        for queries in (48, 768):
            print(queries, compiled(int(sys.argv[1]), sys.argv[2], queries))
