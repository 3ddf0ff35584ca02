"""What backward does with its seed."""

import torch

from fault import FAULTS, of_input, square, fork, fault, blind


def seeing(name, bad):
    FAULTS[name] = lambda wrong: square(
        lambda dy, x: (bad(dy, x) if wrong else dy) * x * 2)


seeing("sign_of_the_seed", lambda dy, x: dy.sign())
seeing("clipped_seed", lambda dy, x: dy.clamp(-1, 1))
seeing("small_seeds_flushed", lambda dy, x: dy * (dy.abs() > 0.01))
seeing("seed_ignored", lambda dy, x: torch.ones_like(dy))
seeing("strides_of_the_seed_ignored", lambda dy, x: blind(dy))


@fault
def mask_of_the_seed(wrong):
    return of_input(torch.relu, lambda dy, x: dy * ((dy if wrong else x) > 0))


@fault
def constant_added(wrong):
    return square(lambda dy, x: dy * x * 2 + (1e-9 if wrong else 0))


@fault
def strides_of_the_input_ignored(wrong):
    seen = blind if wrong else lambda x: x
    return of_input(lambda x: seen(x).exp(), lambda dy, x: dy * seen(x).exp(), fake=torch.exp)


@fault
def wrong_for_a_seed_of_stride_0(wrong):
    def backward(dy, x):
        expanded = dy.numel() > 1 and all(stride == 0 for stride in dy.stride())
        return dy * x * (2 * dy.numel() if wrong and expanded else 2)
    return square(backward)


@fault
def offset_of_the_input_ignored(wrong):
    seen = lambda x: x.as_strided(x.shape, x.stride(), 0) if wrong else x
    return of_input(lambda x: seen(x).exp(), lambda dy, x: dy * seen(x).exp(), fake=torch.exp)


@fault
def seeds_swapped(wrong):
    def backward(dy, dz, x):
        dy, dz = (dz, dy) if wrong else (dy, dz)
        return dy * x.cos() + dz * x * 2
    return fork(backward)


@fault
def second_seed_dropped(wrong):
    return fork(lambda dy, dz, x: dy * x.cos() + (0 if wrong else dz * x * 2))


@fault
def undefined_seed_taken_for_a_tensor(wrong):
    zeros = lambda d, x: torch.zeros_like(x) if d is None and not wrong else d
    return fork(lambda dy, dz, x: zeros(dy, x) * x.cos() + zeros(dz, x) * x * 2, False)


@fault
def undefined_seed_taken_for_no_gradient(wrong):
    def backward(dy, dz, x):
        if dy is not None and dz is not None:
            return dy * x.cos() + dz * x * 2
        if wrong:
            return torch.zeros_like(x)
        return dy * x.cos() if dy is not None else dz * x * 2 if dz is not None else None
    return fork(backward, False)
