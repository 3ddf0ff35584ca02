"""The cost of a custom op: this crate's Function beside C++'s and Python's
torch.autograd.Function, in one process and on one libtorch, Python's.

Every contender has its turn in each round, in random order, and each number is
a median over rounds, so that a drift of the machine's speed meets all of them.
Counted is the time of this thread alone. `make bench-compare` builds and runs it.
"""

import ctypes
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent.parent / "target"
N, CALLS, ROUNDS = 1000, 3, 51


class Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, dy):
        return dy


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * x.cos()


# In this order in Rust and C++ too. Python's like of `alias` is `view_as`.
ALIAS, IDENTITY, SIN, SINE = range(4)
OPS = [lambda x: x.view_as(x), Identity.apply, torch.sin, Sine.apply]


def leaf():
    return torch.ones(4, requires_grad=True)


class Python:
    @staticmethod
    def chain(op, n):
        op, x = OPS[op], leaf()
        y = x
        for _ in range(n):
            y = op(y)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        return dx.sum().item()

    @staticmethod
    def unrecorded(op, n):
        op, x = OPS[op], leaf()
        with torch.no_grad():
            for _ in range(n):
                op(x)


class Native:
    """The same two programs in a library. ctypes calls them without the GIL."""

    def __init__(self, path, prefix):
        library = ctypes.CDLL(str(path))
        self.chain = library[f"{prefix}_chain"]
        self.chain.restype = ctypes.c_double
        self.unrecorded = library[f"{prefix}_unrecorded"]
        self.unrecorded.restype = None


def compile_cpp(name):
    library = TARGET / f"compare/lib{name}.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    home = Path(torch.__file__).parent
    command = [os.environ.get("CXX", "c++"), "-std=c++17", "-O2", "-fPIC", "-shared"]
    command += ["-isystem", home / "include", "-L", home / "lib"]
    command += [HERE / f"{name}.cpp", "-ltorch_cpu", "-lc10", "-o", library]
    subprocess.run(command, check=True)
    return library


def seconds(call, op):
    start = time.thread_time()
    for _ in range(CALLS):
        call(op, N)
    return time.thread_time() - start


class Times:
    """ns per op of every (program, side, op), one number a round."""

    def __init__(self, sides):
        calls = {("chain", name, op): (side.chain, op) for name, side in sides.items() for op in range(4)}
        calls |= {("no_grad", name, op): (side.unrecorded, op) for name, side in sides.items() for op in (SIN, SINE)}
        self.ns = {key: [] for key in calls}
        answers = {key: call(op, N) for key, (call, op) in calls.items()}
        check_answers(answers, sides)
        for _ in range(ROUNDS):
            for key, (call, op) in random.sample(list(calls.items()), len(calls)):
                seconds(call, op)  # its memory into the caches
                self.ns[key].append(seconds(call, op) / (CALLS * N) * 1e9)

    def median(self, key):
        return median(self.ns[key])

    def ratio(self, key, other):
        return median(a / b for a, b in zip(self.ns[key], self.ns[other]))

    def difference(self, key, other):
        return median(a - b for a, b in zip(self.ns[key], self.ns[other]))


def check_answers(answers, sides):
    """Every contender finds the gradient that libtorch's own op has."""
    for own, op in [(ALIAS, ALIAS), (ALIAS, IDENTITY), (SIN, SIN), (SIN, SINE)]:
        expected = answers["chain", "Python", own]
        for name in sides:
            found = answers["chain", name, op]
            if not expected or abs(found / expected - 1) > 1e-5:
                sys.exit(f"error: {name}'s op {op} finds a gradient of {found}; libtorch's own is {expected}")


def print_table(times):
    print(f"One thread, 4-element f32, a chain of {N}, forward and backward; libtorch {torch.__version__},")
    print(f"Python {sys.version.split()[0]}; medians of {ROUNDS} rounds. A ratio is tch-function's time to the row's.\n")
    print("| | `y = x`, ns per op | ratio | to be at most | `y = sin(x)`, `x` saved, ns per op | ratio | added under `no_grad`, ns |")
    print("|---|---|---|---|---|---|---|")
    functions = [
        ("tch-function's `Function`", "Rust", ""),
        ("C++'s `torch::autograd::Function`", "C++", 0.8),
        ("Python's `torch.autograd.Function`", "Python", 0.35),
    ]
    for title, name, target in functions:
        added = times.difference(("no_grad", name, SINE), ("no_grad", name, SIN))
        print_row(times, title, name, IDENTITY, SINE, target, f"{added:.0f}")
    for name, target in [("Rust", 1.05), ("C++", ""), ("Python", "")]:
        print_row(times, f"libtorch's own op, called from {name}", name, ALIAS, SIN, target, "")


def print_row(times, title, name, identity, sine, target, added):
    cells = [title]
    for op, ours in [(identity, IDENTITY), (sine, SINE)]:
        key = "chain", name, op
        cells += [f"{times.median(key):.0f}", f"{times.ratio(('chain', 'Rust', ours), key):.2f}"]
    cells.insert(3, str(target))
    print("|", " | ".join([*cells, added]), "|")


if __name__ == "__main__":
    torch.set_num_threads(1)
    rust = Native(TARGET / "release/libtch_function_compare.so", "rust")
    cpp = Native(compile_cpp("functions"), "cpp")
    print_table(Times({"Rust": rust, "C++": cpp, "Python": Python}))
