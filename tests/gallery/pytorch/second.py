"""Second derivatives that are wrong, of first ones that are right."""

import torch

from fault import op, of_input, fault


@fault
def intermediate_declared_constant(wrong):
    """There is no such declaration in Python: what is saved counts as one."""
    def setup(ctx, inputs, output):
        (x,) = inputs
        ctx.save_for_backward(x.detach().cos() if wrong else x)
    def backward(ctx, dy):
        (saved,) = ctx.saved_tensors
        return dy * (saved if wrong else saved.cos())
    return op(torch.sin, backward, setup=setup)


@fault
def detached_in_backward(wrong):
    return of_input(torch.sin, lambda dy, x: dy * (x.detach() if wrong else x).cos())


@fault
def through_a_number(wrong):
    def backward(dy, x):
        sum_of_squares = (x * x).sum()
        return dy * x * 4 * (sum_of_squares.item() if wrong else sum_of_squares)
    return of_input(lambda x: (x * x).sum() ** 2, backward)


@fault
def no_grad_in_backward(wrong):
    def backward(dy, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not wrong):
            slope = x.exp()
        return dy * slope
    return of_input(torch.exp, backward)
