"""Each op with inputs, and the same thing in PyTorch's own ops."""

from dataclasses import dataclass
from typing import Callable

import torch
from torch.nn import functional as F

from ops_under_test import ops


@dataclass
class Case:
    op: Callable
    reference: Callable
    shapes: list
    arguments: tuple = ()
    in_a_list: bool = False
    dtype: torch.dtype = torch.double
    second: bool = True  # it has a second derivative

    @property
    def name(self):
        return str(self.op).split(".")[-1]

    def inputs(self, requires_grad=True, dtype=None):
        """Away from the kinks of all ops."""
        torch.manual_seed(1)
        make = lambda shape: torch.randn(shape, dtype=dtype or self.dtype).mul(3).requires_grad_(requires_grad)
        return [make(shape) for shape in self.shapes]

    def call(self, f, inputs):
        tensors = ([*inputs],) if self.in_a_list else inputs
        return f(*tensors, *self.arguments)

    def run(self, *inputs):
        return self.call(self.op, inputs)

    def expect(self, *inputs):
        return self.call(self.reference, inputs)


def outputs(result):
    """The differentiable ones, flat."""
    if isinstance(result, torch.Tensor):
        return [result] if result.is_floating_point() else []
    return [t for part in result for t in outputs(part)]


def weigh(x, weights):
    y = [x * w for x, w in zip(x, weights)]
    return y, sum(y)


def reduce(x, how, dims, keep=False):
    return getattr(x, how)(dims, keep)


def gate(x, w, s, center):
    return w * torch.tanh(s * (x - center)), w * s * torch.ones_like(x)


formula = torch.ops.tf_formula

CASES = [
    Case(ops.leaky, lambda x, slope=0.01: F.leaky_relu(x, slope), [(3, 4)]),
    Case(ops.leaky, F.leaky_relu, [(2,)], (0.2,)),
    Case(ops.log1pexp, F.softplus, [(3, 4)]),
    Case(ops.intermediate, F.softplus, [(5,)], second=False),
    Case(ops.recomputed, F.softplus, [(5,)]),
    Case(ops.once, F.softplus, [(5,)], second=False),
    Case(ops.cube, lambda x: x**3, [(3, 4)], dtype=torch.float, second=False),
    Case(ops.pair, lambda a, b: (a * b, a + b, a.argmax(-1)), [(3, 4), (3, 4)]),
    Case(ops.affine, lambda x: x * 1.0, [(3, 4)]),
    Case(ops.affine, lambda x, b, s: x * s + b, [(3, 4), (4,)], (2.0,)),
    Case(ops.weigh, weigh, [(3,), (3,)], ([1.0, 2.0],), in_a_list=True),
    Case(ops.same, lambda x: x * 1, [(3, 4)]),
    Case(ops.reduce, reduce, [(3, 4)], ("mean", [-1], True)),
    Case(ops.reduce, reduce, [(3, 4)], ("sum", [0])),
    Case(formula.softplus, F.softplus, [(3, 4)]),
    Case(formula.gate, gate, [(3, 4), (3, 1), (3, 4)], (0.3,)),
]
