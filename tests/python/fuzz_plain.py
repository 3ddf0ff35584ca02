"""`rust` and `plain`: the ops that fuzz_calls.py calls, and the same formulas in
PyTorch's own ops. A program is a function of either.
"""

from types import SimpleNamespace

import torch
from torch.nn import functional as F

from ops_under_test import ops

fuzz_ops = torch.ops.tf_fuzz


class Planned(Exception):
    """What a formula raises where the Rust op is to fail."""


class FailsInBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, factor, limit):
        return x * factor

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.factor, ctx.limit = inputs

    @staticmethod
    def backward(ctx, dy):
        if ctx.limit is None or dy.numel() and float(dy.flatten()[0]) > ctx.limit:
            raise Planned("backward")
        return dy * ctx.factor, None, None


def fails(x, how):
    if how.startswith("forward"):
        raise Planned(how)
    return FailsInBackward.apply(x, 1.0, None)


def picky(x, how, limit=1.0):
    if how.startswith("forward") and x.numel() and float(x.flatten()[0]) > limit:
        raise Planned(how)
    # Its backward looks at the gradient of x^2.
    return FailsInBackward.apply(x * x, 1.0, limit) if how.startswith("backward") else x * x


def weigh(x, weights):
    y = [x * w for x, w in zip(x, weights)]
    return y, sum(y)


def places(x, weights):
    return sum(x * w for x, w in zip(x, weights) if x is not None)


def softplus(x):
    return F.softplus(x, threshold=1e9)


def affine(x, bias=None, scale=None):
    y = x * (1.0 if scale is None else scale)
    return y if bias is None else y + bias


plain = SimpleNamespace(
    leaky=lambda x, slope=0.01: torch.where(x > 0, x, x * slope),
    log1pexp=softplus,
    intermediate=softplus,
    recomputed=softplus,
    once=softplus,
    cube=lambda x, fake=True: x * x * x,
    pair=lambda a, b: (a * b, a + b, a.argmax(-1)),
    affine=affine,
    weigh=weigh,
    same=lambda x: x * 1.0,
    increment_=lambda x: x.add_(1.0),
    increment_quietly_=lambda x: (x.add_(1.0), None)[1],
    reduce=lambda x, how, dims, keep=False: getattr(x, how)(dims, keep),
    product=lambda a, b: a @ b,
    sleep=lambda x: x * 1.0,
    round_to=lambda x, step=1.0: (x.detach() / step).round() * step,
    fails=fails,
    picky=picky,
    swallow=lambda x, how: x * 3.0,
    inner_pass=lambda x: x.cos(),
    state=lambda x, k=2.0, recompute=False: x * x * k,
    places=places,
    halves=lambda x: (x * (x > 0), x * (x <= 0)),
)


def rust_op(name):
    return getattr(fuzz_ops if name in ("picky", "swallow", "inner_pass", "state", "places", "halves") else ops, name)


rust = SimpleNamespace(**{name: rust_op(name) for name in vars(plain)})
