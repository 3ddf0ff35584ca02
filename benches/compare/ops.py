"""The cost of an op that Python calls: registered from Rust, from C++ and from
Python. Measured as in compare.py; `make bench-compare` builds and runs both.
"""

import random
from statistics import median

import torch

from compare import TARGET, compile_cpp, seconds

ROUNDS = 101


@torch.library.custom_op("py_compare::sine", mutates_args=())
def sine(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


def setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def backward(ctx, dy):
    (x,) = ctx.saved_tensors
    return dy * x.cos()


sine.register_autograd(backward, setup_context=setup_context)


def forward(op, n):
    x = torch.ones(4)
    for _ in range(n):
        op(x)


def both(op, n):
    x = torch.ones(4, requires_grad=True)
    y = x
    for _ in range(n):
        y = op(y)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return dx


def main():
    torch.set_num_threads(1)
    torch.ops.load_library(TARGET / "release/libtch_function_compare.so")
    torch.ops.load_library(compile_cpp("ops"))
    ops = {
        "Rust: `tch_function::library!`": torch.ops.tf_compare.sine,
        "C++: `TORCH_LIBRARY`": torch.ops.cpp_compare.sine,
        "Python: `torch.library.custom_op`": torch.ops.py_compare.sine,
        "libtorch's own `sin`": torch.ops.aten.sin,
    }
    rust = next(iter(ops))
    expected = both(torch.sin, 3)
    assert all(torch.equal(both(op, 3), expected) for op in ops.values())
    calls = [(program, name) for program in (forward, both) for name in ops]
    ns = {call: [] for call in calls}
    for _ in range(ROUNDS):
        for program, name in random.sample(calls, len(calls)):
            ns[program, name].append(seconds(program, ops[name]))

    print("\n`y = sin(x)` as an op that Python calls, 4-element f32; ratios are Rust's time to the row's.\n")
    print("| registered from | forward, ns per op | ratio | forward and backward, ns per op | ratio |")
    print("|---|---|---|---|---|")
    for name in ops:
        cells = [name]
        for program in (forward, both):
            ratio = median(a / b for a, b in zip(ns[program, rust], ns[program, name]))
            cells += [f"{median(ns[program, name]) / 3000 * 1e9:.0f}", f"{ratio:.2f}"]
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
