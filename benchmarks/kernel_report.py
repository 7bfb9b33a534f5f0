"""Compile the Triton kernels for a GPU that need not be there, and count their instructions.

For each kernel: registers a thread, bytes a thread that did not fit and go through memory, and
instructions, all of them and those that multiply. The depthwise convolution is bound by
instructions, so what it takes is their number for each of the 49 products of a value: 1 is the
least. bfloat16 features, 128 channels at the convolution, 512 at GELU and GRN.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

os.environ.pop('TRITON_INTERPRET', None)  # before Triton is imported: this is about the compiler

from convnextv2_mm.ops.triton import depthwise_conv as conv
from convnextv2_mm.ops.triton import gelu_grn_linear as gelu

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

BINARIES = Path(triton.__file__).parent / 'backends/nvidia/bin'
FEATURES = ('x', 'y', 'grad', 'grad_x')  # in bfloat16; other pointers are float32 or the table
SIZES = ('H', 'W', 'has_bias', 'tiles', 'sites', 'parts', 'samples')


def variants() -> dict[str, tuple[triton.JITFunction, dict]]:
    """Kernels with their constants."""
    found = {}
    for name, tile, dense, even in (
        ('8×8, 4×4', 4, False, False),
        ('2×2', 2, False, False),
        ('1×1', 1, False, False),
        ('dense', 4, True, True),
        ('dense, uneven', 4, True, False),
    ):
        known = dict(C=128, T=tile, R=triton.cdiv(3, tile), STRIDE=tile)
        known.update(IS_DENSE=dense, IS_EVEN=even)
        block = conv.conv_block(known['C'], tile)
        found[f'depthwise_conv, {name}'] = (conv._conv_kernel, dict(known, BC=block))
        block = conv.weight_grad_block(known['C'], dense, even)
        found[f'weight gradient, {name}'] = (conv._weight_grad_kernel, dict(known, BC=block))
    part = dict(C=512, PART=gelu.PART, ROWS=gelu.ROWS, BLOCK=gelu.BLOCK)
    sample = dict(C=512, EPS=gelu.EPS, BLOCK=512)
    for name in ('squares', 'norm', 'apply', 'grad_sums', 'grad_norm', 'grads'):
        known = sample if name.endswith('norm') else part
        found[f'gelu_grn, {name}'] = (getattr(gelu, f'_{name}_kernel'), known)
    return found


def count(kernel: triton.JITFunction, constants: dict, capability: int) -> dict:
    """Compile a kernel for one GPU and read what came out."""
    signature, aligned = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = 'constexpr'
        elif name in SIZES:
            signature[name] = 'i32'
        else:
            kind = 'bf16' if name in FEATURES else 'i32' if name == 'table' else 'fp32'
            signature[name] = f'*{kind}'
            aligned[(index,)] = [['tt.divisibility', 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    warps = 1 if 'BC' in constants else 4
    compiled = triton.compile(
        source, target=GPUTarget('cuda', capability, 32), options=dict(num_warps=warps)
    )
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        code = inspect('nvdisasm', '-c', file.name)
        usage = inspect('cuobjdump', '-res-usage', file.name)
    names = re.findall(r'^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)', code, re.MULTILINE)
    instructions = Counter(names)
    registers, spilled = re.search(r'REG:(\d+) STACK:(\d+)', usage).groups()
    return dict(
        registers=int(registers),
        spilled_bytes=int(spilled),
        instructions=instructions.total() - instructions['NOP'],
        products=instructions['FFMA'],
    )


def inspect(binary: str, *arguments: str) -> str:
    command = [BINARIES / binary, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--capability', type=int, default=90, help='80 is A100, 90 is H100 and H200'
    )
    parser.add_argument('--json', metavar='FILE', help='write the figures')
    args = parser.parse_args()
    print(
        f'{f"sm_{args.capability}":30}{"registers":>10}{"spilled":>9}{"all":>7}{"FFMA":>7}', end=''
    )
    print(f'{"ratio":>7}')
    rows = []
    for name, (kernel, constants) in variants().items():
        row = dict(name=name, **count(kernel, constants, args.capability))
        rows.append(row)
        line = f'{name:30}{row["registers"]:10}{row["spilled_bytes"]:9}{row["instructions"]:7}'
        line += f'{row["products"]:7}'
        if 'BC' in constants:
            line += f'{row["instructions"] / row["products"]:7.2f}'
        print(line, flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    main()
