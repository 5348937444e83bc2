"""How fast a linear layer is in each quantization, beside bfloat16 with the same kernels.

    python benchmarks/quantized_linears.py [--threads N] [--rows N ...] [--rounds N]

A layer of the 2B model's feed-forward (2304 to 9216), several copies of it so that weights come
from memory, as in a model. The forms take turns, and the best round of each counts. `torch int4` is
torch's own kernel for the same codes.
"""

import argparse
import time
from collections.abc import Callable

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from model.kernels import Kernels, choose
from model.params import Quantization
from model.quantization import FORMATS, nibbles
from model.quantization.own import GROUP

OUTPUTS, INPUTS, COPIES = 9216, 2304, 4
FORMS: tuple[Quantization, ...] = ("none", "int8", "int4", "bnb-nf4", "bnb-int8")
TORCH = "torch int4"
Linear = Callable[[Tensor], Tensor]


def make_forms(kernels: Kernels) -> dict[str, list[Linear]]:
    """Keep the same weights in every form."""
    weights = [torch.randn(OUTPUTS, INPUTS).bfloat16() / INPUTS**0.5 for _ in range(COPIES)]
    forms: dict[str, list[Linear]] = {
        name: [kernels.linear(weight, None, name) for weight in weights] for name in FORMS
    }
    return forms | {TORCH: [_torch_int4(weight) for weight in weights]}


def _torch_int4(weight: Tensor) -> Linear:
    """Give the codes of int4 to torch's kernel, whose values are (code - 8) * scale + zero."""
    packed, scale, low = FORMATS["int4"].quantize(weight).tensors
    codes = nibbles.unpack(packed).int()
    theirs = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001
    scales = torch.stack((scale.t(), low.t() + 8 * scale.t()), dim=-1).contiguous()

    def call(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(  # noqa: SLF001
            x, theirs, GROUP, scales
        )
        return out

    return call


def best_seconds(forms: dict[str, list[Linear]], rows: int, rounds: int) -> dict[str, float]:
    """Time one call of each form, in turns."""
    x = torch.randn(rows, INPUTS).bfloat16()
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(rounds):
        for name, linears in forms.items():
            start = time.perf_counter()
            for linear in linears:
                linear(x)
            best[name] = min(best[name], (time.perf_counter() - start) / len(linears))
    return best


def main() -> None:
    """Print how many times as fast as bfloat16 each form is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kernels = choose("auto", torch.device("cpu"), torch.bfloat16)
    forms = make_forms(kernels)
    names = [name for name in forms if name != "none"]
    table = Table("rows", *names, box=box.MARKDOWN)
    for rows in args.rows:
        best = best_seconds(forms, rows, args.rounds)
        table.add_row(str(rows), *(f"{best['none'] / best[name]:.2f}" for name in names))
    Console().print(f"{kernels.name} kernels, {args.threads} threads; times as fast as bfloat16")
    Console().print(table)


if __name__ == "__main__":
    main()
