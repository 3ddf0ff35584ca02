"""The two ops as torch.library.custom_op: for torch.compile and torch.export. It has no forward mode."""

import torch
from torch import Tensor


# op: softplus
@torch.library.custom_op("by_hand::softplus", mutates_args=())
def softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0) + (-x.abs()).exp().log1p()


@softplus.register_fake
def _(x):
    return torch.empty_like(x)


@softplus.register_vmap
def _(info, in_dims, x):
    return softplus(x), in_dims[0]


def softplus_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def softplus_backward(ctx, dy):
    (x,) = ctx.saved_tensors
    return dy * x.sigmoid()


softplus.register_autograd(softplus_backward, setup_context=softplus_setup)


# op: gate
@torch.library.custom_op("by_hand::gate", mutates_args=())
def gate(a: Tensor, b: Tensor, c: Tensor, scale: float) -> Tensor:
    return (a * b + c).tanh() * (a - c).sigmoid() + scale * (-b * b).exp() * c


@gate.register_fake
def _(a, b, c, scale):
    return torch.empty_like(a + b + c)


@gate.register_vmap
def _(info, in_dims, a, b, c, scale):
    x = [t if d is None else t.movedim(d, 0) for t, d in zip((a, b, c), in_dims)]
    rank = max(t.dim() - (d is not None) for t, d in zip(x, in_dims))
    for i, (t, d) in enumerate(zip(x, in_dims)):
        if d is not None:
            x[i] = t.reshape(t.shape[:1] + (1,) * (rank + 1 - t.dim()) + t.shape[1:])
    return gate(*x, scale), 0


def gate_setup(ctx, inputs, output):
    *x, ctx.scale = inputs
    ctx.save_for_backward(*x)


def gate_backward(ctx, dy):
    a, b, c = ctx.saved_tensors
    t, s = (a * b + c).tanh(), (a - c).sigmoid()
    dt, ds = 1 - t * t, s * (1 - s)
    e = ctx.scale * (-b * b).exp()
    da, db, dc = dt * b * s + t * ds, dt * a * s - 2 * e * b * c, dt * s - t * ds + e
    return dy * da, dy * db, dy * dc, None


gate.register_autograd(gate_backward, setup_context=gate_setup)
