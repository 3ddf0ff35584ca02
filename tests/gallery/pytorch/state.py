"""Numbers that depend on more than the inputs."""

import itertools
import threading
import time

import torch

from fault import LEFT_OUT, of_input, square, with_state, fault


@fault
def noise_in_backward(wrong):
    return square(lambda dy, x: dy * (x * 2 + (torch.randn_like(x) * 1e-3 if wrong else 0)))


@fault
def noise_in_forward(wrong):
    return of_input(lambda x: x * x + (torch.randn_like(x) * 1e-3 if wrong else 0),
                    lambda dy, x: dy * x * 2, fake=lambda x: x * x)


@fault
def counts_its_calls(wrong):
    calls = itertools.count()
    return square(lambda dy, x: dy * x * (2 + 1e-12 * (next(calls) if wrong else 0)))


@fault
def wrong_now_and_then(wrong):
    calls = itertools.count(1)
    return square(lambda dy, x: dy * x * (3 if wrong and next(calls) % 5 == 0 else 2))


@fault
def stale_input_in_a_global(wrong):
    last = []
    def forward(x):
        last[:] = [x.detach().clone()]
        return x * x
    return of_input(forward, lambda dy, x: dy * (last[0] if wrong else x) * 2,
                    fake=lambda x: x * x)


@fault
def running_mean(wrong):
    mean = [0.0]
    def forward(x):
        if wrong:
            mean[0] = 0.9 * mean[0] + 0.1 * x.mean().item()
        return x - mean[0]
    return of_input(forward, lambda dy, x: dy.clone(), fake=torch.clone)


@fault
def scratch_buffer_of_all_threads(wrong):
    scratch = []
    def forward(x):
        if not wrong:
            return x * x
        scratch[:] = [x * x]
        time.sleep(20e-6)
        return scratch[0].clone()
    return of_input(forward, lambda dy, x: dy * x * 2, fake=lambda x: x * x)


@fault
def works_on_its_own_thread_alone(wrong):
    def slope(x, made_on):
        return x * (0 if wrong and threading.get_ident() != made_on else 2)
    return with_state(threading.get_ident, slope)


@fault
def panics_if_two_run_at_once(wrong):
    busy = threading.Lock()
    def backward(dy, x):
        if wrong:
            assert busy.acquire(blocking=False), "nobody else runs"
            time.sleep(20e-6)
            busy.release()
        return dy * x * 2
    return square(backward)


@fault
def second_pass_counts_on(wrong):
    return with_state(itertools.count,
                      lambda x, passes: x * 2 * (1 + (next(passes) if wrong else 0)))


@fault
def taken_by_the_first_pass(wrong):
    return with_state(lambda: [2.0], lambda x, factor: x * (factor.pop() if wrong else factor[0]))


@fault
def looks_at_requires_grad(wrong):
    forward = lambda x: x * x * (1.001 if wrong and x.requires_grad else 1)
    return of_input(forward, lambda dy, x: dy * x * 2, fake=lambda x: x * x)


LEFT_OUT["not_what_it_claims"] = "no checker can be told which gradient is claimed"
