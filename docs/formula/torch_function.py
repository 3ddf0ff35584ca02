"""The two ops as torch.autograd.Function, with forward mode, vmap and double backward."""

import torch


# op: softplus
class Softplus(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clamp(min=0) + (-x.abs()).exp().log1p()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * x.sigmoid()

    @staticmethod
    def jvp(ctx, dx):
        (x,) = ctx.saved_tensors
        return dx * x.sigmoid()


def softplus(x):
    return Softplus.apply(x)


# op: gate
def gate_slopes(a, b, c, scale):
    t, s = (a * b + c).tanh(), (a - c).sigmoid()
    dt, ds = 1 - t * t, s * (1 - s)
    e = scale * (-b * b).exp()
    return dt * b * s + t * ds, dt * a * s - 2 * e * b * c, dt * s - t * ds + e


class Gate(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a, b, c, scale):
        return (a * b + c).tanh() * (a - c).sigmoid() + scale * (-b * b).exp() * c

    @staticmethod
    def setup_context(ctx, inputs, output):
        *x, ctx.scale = inputs
        ctx.save_for_backward(*x)
        ctx.save_for_forward(*x)

    @staticmethod
    def backward(ctx, dy):
        da, db, dc = gate_slopes(*ctx.saved_tensors, ctx.scale)
        return dy * da, dy * db, dy * dc, None

    @staticmethod
    def jvp(ctx, va, vb, vc, _):
        da, db, dc = gate_slopes(*ctx.saved_tensors, ctx.scale)
        return va * da + vb * db + vc * dc


def gate(a, b, c, scale):
    return Gate.apply(a, b, c, scale)
