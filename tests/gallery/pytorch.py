"""The gallery's faults, under PyTorch's own checkers.

Reads what `cargo test --test gallery` prints (see `make gallery-pytorch`), and
prints for each fault which of gradcheck, gradgradcheck, opcheck and this
crate's check catch it. A fault counts as caught if the checker fails on it and
passes the same Function without the fault. gradcheck and gradgradcheck run
with default arguments (check_forward_ad where there is a jvp), on the f64
inputs of the gallery; opcheck on the same functions registered as custom ops.
"""

import itertools
import math
import re
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import torch
from torch.autograd import gradcheck, gradgradcheck

FAULTS = {}
LEFT_OUT = {}
IDS = itertools.count()


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


# gradient


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


# inputs


@fault
def transpose_missing(wrong):
    return product(lambda ctx, dy, a, b: (dy @ (b if wrong else b.T), a.T @ dy),
                   f=lambda a, b: a @ b)


@fault
def broadcast_not_summed(wrong):
    def backward(ctx, dy, a, b):
        db = dy * a
        return dy * b, db[0] if wrong else db.sum_to_size(b.shape)
    return product(backward, X, ROW)


@fault
def broadcast_averaged(wrong):
    def backward(ctx, dy, a, b):
        db = (dy * a).sum_to_size(b.shape)
        return dy * b, db * b.numel() / a.numel() if wrong else db
    return product(backward, X, ROW)


@fault
def gradients_swapped(wrong):
    return product(lambda ctx, dy, a, b: (dy * a, dy * b) if wrong else (dy * b, dy * a))


@fault
def repeated_indices_not_added(wrong):
    def backward(ctx, dy):
        x, index = ctx.saved_tensors
        zeros = torch.zeros_like(x)
        add = zeros.index_copy if wrong else zeros.index_add
        return add(0, index, dy), None
    return op(lambda x, index: x[index], backward, (A, torch.tensor([2, 0, 2, 1])))


@fault
def nothing_if_another_needs_nothing(wrong):
    def backward(ctx, dy, a, b):
        idle = wrong and not all(ctx.needs_input_grad)
        return (None, None) if idle else (dy * b, dy * a)
    return product(backward)


@fault
def depends_on_who_asks(wrong):
    def backward(ctx, dy, a, b):
        alone = wrong and not ctx.needs_input_grad[0]
        return dy * b, dy * a * (2 if alone else 1)
    return product(backward)


@fault
def asks_for_the_wrong_position(wrong):
    def backward(ctx, dy, a, b):
        return (dy * b if ctx.needs_input_grad[0] else None,
                dy * a if ctx.needs_input_grad[0 if wrong else 1] else None)
    return product(backward)


def with_jvp(name, bad):
    def make(wrong):
        def setup(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)
        right = lambda a, b, da, db: a * db + da * b
        jvp = lambda ctx, da, db: (bad if wrong else right)(*ctx.saved_tensors, da, db)
        return product(lambda ctx, dy, a, b: (dy * b, dy * a), setup=setup, jvp=jvp, custom=False)
    FAULTS[name] = make


with_jvp("tangent_times_2", lambda a, b, da, db: (a * db + da * b) * 2)
with_jvp("tangent_without_a_term", lambda a, b, da, db: da * b)
with_jvp("tangents_swapped", lambda a, b, da, db: a * da + db * b)


# seeds


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


# second


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


# accuracy


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


# memory


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


# state


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


# the checkers


def apply_of(op):
    """The op through torch.autograd.Function."""
    class F(torch.autograd.Function):
        forward = staticmethod(lambda *x: op.forward(*x))  # a builtin has no signature
        setup_context = staticmethod(op.setup)
        backward = staticmethod(op.backward)
        if op.jvp:
            jvp = staticmethod(op.jvp)
    if op.custom:
        return F.apply
    return lambda *x: F.apply(*(x if op.jvp else [t.clone() for t in x]))


def inputs_of(op):
    return tuple(x.clone().requires_grad_(x.is_floating_point()) for x in op.inputs)


def run_gradcheck(op):
    gradcheck(apply_of(op), inputs_of(op), check_forward_ad=bool(op.jvp))


def run_gradgradcheck(op):
    gradgradcheck(apply_of(op), inputs_of(op))


def run_opcheck(op):
    name = f"gallery::op{next(IDS)}"
    outputs = "(Tensor, Tensor)" if isinstance(op.forward(*inputs_of(op)), tuple) else "Tensor"
    arguments = ", ".join(f"Tensor x{i}" for i in range(len(op.inputs)))
    custom = torch.library.custom_op(
        name, op.forward, mutates_args=(), schema=f"({arguments}) -> {outputs}")
    custom.register_fake(op.fake)
    custom.register_autograd(op.backward, setup_context=op.setup)
    torch.library.opcheck(custom, inputs_of(op))


def fails(run, op):
    torch.manual_seed(0)
    try:
        run(op)
        return False
    except Exception:
        return True


def caught(run, make):
    """None where the right one fails too, or cannot be registered."""
    if run is run_opcheck and not make(False).custom:
        return None
    if fails(run, make(False)):
        return None
    return fails(run, make(True))


def ours(log):
    return {m[1]: m[2] == "ok" for m in re.finditer(r"^test \w+::(\w+) \.\.\. (\w+)", log, re.M)}


def main():
    warnings.filterwarnings("ignore")
    here = ours(sys.stdin.read())
    assert set(here) == set(FAULTS) | set(LEFT_OUT), set(here) ^ (set(FAULTS) | set(LEFT_OUT))
    runs = [run_gradcheck, run_gradgradcheck, run_opcheck]
    say = {True: "caught", False: "passed", None: "-"}
    print(f"{'fault':<40}{'gradcheck':<12}{'gradgradcheck':<15}{'opcheck':<10}ours")
    counts = [0, 0, 0, 0]
    any_of_pytorch = 0
    for name in here:
        row = [caught(run, FAULTS[name]) if name in FAULTS else None for run in runs]
        any_of_pytorch += any(row)
        row.append(here[name])
        counts = [n + bool(c) for n, c in zip(counts, row)]
        first, second, third, own = (say[c] for c in row)
        print(f"{name:<40}{first:<12}{second:<15}{third:<10}{own}", flush=True)
    for name, why in LEFT_OUT.items():
        print(f"left out of PyTorch's columns: {name}: {why}")
    print(f"{len(here)} faults; of the {len(FAULTS)} that Python can express, gradcheck catches "
          f"{counts[0]}, gradgradcheck {counts[1]}, opcheck {counts[2]}, "
          f"any of them {any_of_pytorch}; this crate's check {counts[3]} of {len(here)}")


main()
