"""A fault, and small ops made of closures to put faults into."""

from types import SimpleNamespace

import torch

FAULTS = {}
LEFT_OUT = {}


def f64(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


X = f64(0.5, -1.25, 2.0, 3.0, 0.1, -0.7).reshape(2, 3)
A = f64(0.5, -1.25, 2.0, 3.0, 0.1, -0.7, 1.5, -0.25, 0.75).reshape(3, 3)
B = f64(1.5, 0.25, -0.5, 0.75, 2.0, 1.25, -1.0, 0.3, 0.9).reshape(3, 3)
ROW = f64(1.5, -0.5, 0.25)


def op(forward, backward, inputs=(X,), setup=None, jvp=None, fake=None, custom=True):
    """`backward(ctx, *seeds)`; without `setup` the inputs are saved."""
    setup = setup or (lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
    return SimpleNamespace(
        forward=forward, backward=backward, inputs=inputs, setup=setup,
        jvp=jvp, fake=fake or forward, custom=custom)


def of_input(f, backward, x=X, **rest):
    """`backward(dy, x)`"""
    return op(f, lambda ctx, dy: backward(dy, *ctx.saved_tensors), (x,), **rest)


def square(backward, **rest):
    return of_input(lambda x: x * x, backward, **rest)


def product(backward, a=A, b=B, f=lambda a, b: a * b, **rest):
    """`backward(ctx, dy, a, b)`"""
    return op(f, lambda ctx, dy: backward(ctx, dy, *ctx.saved_tensors), (a, b), **rest)


def fork(backward, materialize=True):
    """`sin x` and `x^2`; `backward(dy, dz, x)`"""
    def setup(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(materialize)
    forward = lambda x: (x.sin(), x * x)
    return op(forward, lambda ctx, dy, dz: backward(dy, dz, *ctx.saved_tensors), setup=setup)


def with_state(state, slope):
    """`x^2`, whose `slope(x, state)` sees what forward made"""
    def setup(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.state = state()
    forward = lambda x: x * x
    return op(forward, lambda ctx, dy: dy * slope(ctx.saved_tensors[0], ctx.state), setup=setup)


def fault(f):
    FAULTS[f.__name__] = f


def blind(t):
    return t.as_strided(t.shape, torch.empty(t.shape).stride())
