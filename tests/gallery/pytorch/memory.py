"""What belongs to others, changed, shared or kept."""

import torch

from fault import FAULTS, of_input, square, fault


def changing(name, bad):
    FAULTS[name] = lambda wrong: square(lambda dy, x: bad(dy, x) if wrong else dy * (x * 2))


changing("seed_changed_in_place", lambda dy, x: dy.mul_(x * 2))
changing("seed_changed_through_data", lambda dy, x: dy.data.mul_(x * 2))
changing("saved_tensor_changed", lambda dy, x: dy * x.data.mul_(2))


@fault
def input_changed_through_data(wrong):
    clip = lambda x: x.data.clamp_(-1, 1).clone() if wrong else x.clamp(-1, 1)
    return of_input(clip, lambda dy, x: dy * ((x > -1) & (x < 1)),
                    fake=lambda x: x.clamp(-1, 1))


@fault
def output_in_the_memory_of_the_input(wrong):
    return of_input(lambda x: x.data if wrong else x.clone(), lambda dy, x: dy.clone(),
                    fake=torch.clone)


@fault
def view_that_libtorch_does_not_know(wrong):
    return of_input(lambda x: x.data.reshape(-1) if wrong else x.reshape(-1).clone(),
                    lambda dy, x: dy.reshape(x.shape), fake=lambda x: x.reshape(-1).clone())


@fault
def one_buffer_for_all_calls(wrong):
    buffers = {}
    def forward(x):
        y = x * x
        return buffers.setdefault(y.shape, y).data.copy_(y) if wrong else y
    return of_input(forward, lambda dy, x: dy * x * 2, fake=lambda x: x * x)


def keeping(name, what):
    kept = []
    def make(wrong):
        def backward(dy, x):
            if wrong:
                kept.append(what(dy, x))
            return dy * x * 2
        return square(backward)
    FAULTS[name] = make


keeping("saved_tensor_leaked", lambda dy, x: x)
keeping("seed_kept_in_a_list", lambda dy, x: dy)


@fault
def output_kept_in_a_list(wrong):
    kept = []
    def forward(x):
        y = x * x
        if wrong:
            kept.append(y)
        return y
    return of_input(forward, lambda dy, x: dy * x * 2, fake=lambda x: x * x)


@fault
def intermediate_leaked(wrong):
    kept = []
    def backward(dy, x):
        slope = x.exp()
        if wrong:
            kept.append(slope)
        return dy * slope
    return of_input(torch.exp, backward)
