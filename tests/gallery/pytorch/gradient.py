"""First derivatives that are wrong."""

import math

import torch

from fault import FAULTS, X, A, f64, op, of_input, square, fault


def scaled(name, bad):
    FAULTS[name] = lambda wrong: square(lambda dy, x: dy * x * (bad if wrong else 2.0))


scaled("wrong_sign", -2.0)
scaled("factor_of_2", 4.0)
scaled("factor_of_a_half", 1.0)
scaled("factor_of_12345", 24690.0)
scaled("relative_error_of_5e_4", 2.001)


@fault
def cut_to_integers_at_integers(wrong):
    def cut(slope, x):
        return torch.where(x == x.round(), slope.trunc(), slope) if wrong else slope
    return of_input(torch.sin, lambda dy, x: dy * cut(x.cos(), x), f64(0.5, -1.25, 2.3))


@fault
def shifted_mask_of_relu(wrong):
    return of_input(torch.relu, lambda dy, x: dy * (x > (0.5 if wrong else 0.0)))


@fault
def mask_of_clamp_on_one_side(wrong):
    mask = lambda x: (x < 1) if wrong else (x < 1) & (x > -1)
    return of_input(lambda x: x.clamp(-1, 1), lambda dy, x: dy * mask(x))


@fault
def mean_without_dividing(wrong):
    return of_input(lambda x: x.mean(),
                    lambda dy, x: dy.expand_as(x) / (1 if wrong else x.numel()))


@fault
def sum_along_another_dimension(wrong):
    return of_input(lambda x: x.sum(0),
                    lambda dy, x: dy.unsqueeze(1 if wrong else 0).expand_as(x), A)


@fault
def in_place_output_taken_for_the_input(wrong):
    def setup(ctx, inputs, output):
        ctx.mark_dirty(inputs[0])
        ctx.save_for_backward(output)
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return dy * (y.exp() if wrong else y)
    return op(lambda x: x.exp_(), backward, setup=setup, custom=False)


@fault
def last_element_is_zero(wrong):
    def backward(dy, x):
        dx = dy * x * 2
        if wrong:
            mask = torch.ones_like(dx)
            mask.view(-1)[-1] = 0
            dx = dx * mask
        return dx
    return square(backward)


@fault
def wrong_at_negative_inputs(wrong):
    slope = lambda x: x * x.abs() if wrong else x * x
    return of_input(lambda x: x * x * x, lambda dy, x: dy * slope(x) * 3, X.abs())


@fault
def not_a_number_at_zero(wrong):
    def backward(dy, x):
        slope = ((x * math.pi).cos() - x.sinc()) / x
        return dy * (slope if wrong else torch.where(x != 0, slope, 0.0))
    return of_input(torch.sinc, backward, f64(0.5, -1.25, 0.0))


@fault
def softmax_without_its_sum(wrong):
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return y * (dy if wrong else dy - (dy * y).sum(-1, keepdim=True))
    return op(lambda x: x.softmax(-1), backward,
              setup=lambda ctx, inputs, output: ctx.save_for_backward(output))


@fault
def centring_without_the_mean(wrong):
    centred = lambda x: x - x.mean(-1, keepdim=True)
    return of_input(centred, lambda dy, x: dy.clone() if wrong else centred(dy))


@fault
def cumulative_sum_not_reversed(wrong):
    return of_input(lambda x: x.cumsum(0),
                    lambda dy, x: dy.cumsum(0) if wrong else dy.flip(0).cumsum(0).flip(0))


@fault
def gradient_forgotten(wrong):
    return square(lambda dy, x: None if wrong else dy * x * 2)


@fault
def stale_cache_by_shape(wrong):
    cache = {}
    def backward(dy, x):
        slope = cache.setdefault(x.shape, (x * 2).detach().clone()) if wrong else x * 2
        return dy * slope
    return square(backward)
