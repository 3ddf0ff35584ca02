"""The gallery's faults, under PyTorch's own checkers.

Reads what `cargo test --test gallery` prints (see `make gallery-pytorch`), and
prints for each fault which of gradcheck, gradgradcheck, opcheck and this
crate's check catch it. A fault counts as caught if the checker fails on it and
passes the same Function without the fault. gradcheck and gradgradcheck run
with default arguments (check_forward_ad where there is a jvp), on the f64
inputs of the gallery; opcheck on the same functions registered as custom ops.
"""

import itertools
import re
import sys
import warnings

import torch
from torch.autograd import gradcheck, gradgradcheck

import accuracy, gradient, inputs, memory, second, seeds, state
from fault import FAULTS, LEFT_OUT

IDS = itertools.count()


def apply_of(op):
    """The op through torch.autograd.Function."""
    class F(torch.autograd.Function):
        forward = staticmethod(lambda *x: op.forward(*x))  # a builtin has no signature
        setup_context = staticmethod(op.setup)
        backward = staticmethod(op.backward)
        if op.jvp:
            jvp = staticmethod(op.jvp)
    if op.custom:
        return F.apply
    return lambda *x: F.apply(*(x if op.jvp else [t.clone() for t in x]))


def inputs_of(op):
    return tuple(x.clone().requires_grad_(x.is_floating_point()) for x in op.inputs)


def run_gradcheck(op):
    gradcheck(apply_of(op), inputs_of(op), check_forward_ad=bool(op.jvp))


def run_gradgradcheck(op):
    gradgradcheck(apply_of(op), inputs_of(op))


def run_opcheck(op):
    name = f"gallery::op{next(IDS)}"
    outputs = "(Tensor, Tensor)" if isinstance(op.forward(*inputs_of(op)), tuple) else "Tensor"
    arguments = ", ".join(f"Tensor x{i}" for i in range(len(op.inputs)))
    custom = torch.library.custom_op(
        name, op.forward, mutates_args=(), schema=f"({arguments}) -> {outputs}")
    custom.register_fake(op.fake)
    custom.register_autograd(op.backward, setup_context=op.setup)
    torch.library.opcheck(custom, inputs_of(op))


def fails(run, op):
    torch.manual_seed(0)
    try:
        run(op)
        return False
    except Exception:
        return True


def caught(run, make):
    """None where the right one fails too, or cannot be registered."""
    if run is run_opcheck and not make(False).custom:
        return None
    if fails(run, make(False)):
        return None
    return fails(run, make(True))


def ours(log):
    return {m[1]: m[2] == "ok" for m in re.finditer(r"^test \w+::(\w+) \.\.\. (\w+)", log, re.M)}


def main():
    warnings.filterwarnings("ignore")
    here = ours(sys.stdin.read())
    assert set(here) == set(FAULTS) | set(LEFT_OUT), set(here) ^ (set(FAULTS) | set(LEFT_OUT))
    runs = [run_gradcheck, run_gradgradcheck, run_opcheck]
    say = {True: "caught", False: "passed", None: "-"}
    print(f"{'fault':<40}{'gradcheck':<12}{'gradgradcheck':<15}{'opcheck':<10}ours")
    counts = [0, 0, 0, 0]
    any_of_pytorch = 0
    for name in here:
        row = [caught(run, FAULTS[name]) if name in FAULTS else None for run in runs]
        any_of_pytorch += any(row)
        row.append(here[name])
        counts = [n + bool(c) for n, c in zip(counts, row)]
        first, second, third, own = (say[c] for c in row)
        print(f"{name:<40}{first:<12}{second:<15}{third:<10}{own}", flush=True)
    for name, why in LEFT_OUT.items():
        print(f"left out of PyTorch's columns: {name}: {why}")
    print(f"{len(here)} faults; of the {len(FAULTS)} that Python can express, gradcheck catches "
          f"{counts[0]}, gradgradcheck {counts[1]}, opcheck {counts[2]}, "
          f"any of them {any_of_pytorch}; this crate's check {counts[3]} of {len(here)}")


main()
