"""AdamW's kernels, compiled for an H100 on any machine."""

from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from leap.training.triton_adamw import _adamw
from leap.training.triton_stochastic import _stochastic_adamw
from leap.training.weight_table import BLOCK, BLOCKS


def compiled(kernel: Any, pointers: dict[str, str], **constants: Any) -> str:
    constants |= {"ALIGNED": True, "BLOCK": BLOCK, "BLOCKS": BLOCKS}
    signature = {name: pointers.get(name, "fp32") for name in kernel.arg_names} | dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    return str(triton.compile(ASTSource(kernel, signature, places), target=GPUTarget("cuda", 90, 32)).metadata.name)


table = {"table": "*i64", "programs": "*i32", "count": "i32"}
print(compiled(_adamw, {**table, "corrections": "*fp32", "scale": "*fp32"}))
for weights in (tl.bfloat16, tl.float32):
    print(compiled(_stochastic_adamw, table, WEIGHTS=weights, GRADS=tl.bfloat16))
