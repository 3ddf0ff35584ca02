"""Values, dtypes and shapes."""

import math

import torch

from fault import FAULTS, X, f64, of_input, square, fault


def coarse(wrong, x):
    return x.float().to(x.dtype) if wrong else x


@fault
def another_function(wrong):
    k = 1 + 1e-6 if wrong else 1.0
    return of_input(lambda x: (x * k).tanh(), lambda dy, x: dy * k * (1 - (x * k).tanh() ** 2))


@fault
def population_for_sample_variance(wrong):
    n = lambda x: x.numel() - (0 if wrong else 1)
    return of_input(lambda x: (x - x.mean()).square().sum() / n(x),
                    lambda dy, x: dy * (x - x.mean()) * 2 / n(x))


def softplus(x):
    return torch.nn.functional.softplus(x)


def overflowing(name, x):
    def make(wrong):
        f = (lambda x: (x.exp() + 1).log()) if wrong else softplus
        return of_input(f, lambda dy, x: dy * x.sigmoid(), x)
    FAULTS[name] = make


overflowing("overflows", X)
overflowing("overflows_in_f16", f64(-3.0, 0.5, 25.0))
overflowing("overflows_in_f32", f64(-3.0, 0.5, 100.0))


@fault
def approximate_forward(wrong):
    sine = lambda x: x.sin() + (x * 3).sin() * (1e-6 if wrong else 0)
    return of_input(sine, lambda dy, x: dy * x.cos())


@fault
def f32_in_forward(wrong):
    return of_input(lambda x: coarse(wrong, x.exp()), lambda dy, x: dy * x.exp())


@fault
def f32_in_backward(wrong):
    return square(lambda dy, x: coarse(wrong, dy * x * 2))


@fault
def cancels_near_zero(wrong):
    def f(x):
        return (1 - x.cos()) / x**2 if wrong else (x / 2).sin() ** 2 * 2 / x**2
    return of_input(f, lambda dy, x: dy * (x.sin() / x**2 - f(x) * 2 / x), f64(0.5, -1.25, 3.0))


@fault
def dtype_of_a_constant(wrong):
    def pi(x):
        kind = torch.bfloat16 if wrong and x.dtype == torch.float32 else x.dtype
        return torch.tensor(math.pi, dtype=kind)
    return of_input(lambda x: (x * pi(x)).sin(), lambda dy, x: dy * (x * pi(x)).cos() * pi(x))


@fault
def panics_on_empty_input(wrong):
    def backward(dy, x):
        if wrong:
            x.reshape(-1)[0]
        return dy * x * 2
    return square(backward, x=f64(0.5, -1.25, 2.0))


@fault
def vector_for_a_scalar(wrong):
    f = lambda x: x.exp().unsqueeze(0) if wrong and x.dim() == 0 else x.exp()
    return of_input(f, lambda dy, x: dy.view_as(x) * x.exp())


@fault
def tail_of_the_vectors_forgotten(wrong):
    def backward(dy, x):
        mask = torch.ones_like(x)
        n = x.numel()
        if wrong and n > 16:
            mask.view(-1)[n // 16 * 16:] = 0
        return dy * x * 2 * mask
    return square(backward)


@fault
def rows_mixed_up(wrong):
    def backward(dy, x):
        y = x.softmax(-1)
        dims = tuple(range(x.dim())) if wrong else -1
        return y * (dy - (dy * y).sum(dims, keepdim=True))
    return of_input(lambda x: x.softmax(-1), backward, f64(0.5, -1.25, 2.0).unsqueeze(0))
