"""Ways to call a function of tensors: `run`s, which return values and gradients, and
what a function can be wrapped in.
"""

import gc
import threading

import torch
from torch.autograd import forward_ad
from torch.func import functionalize, grad, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from fuzz_modes import *


def outputs(result):
    """The differentiable ones, flat."""
    if isinstance(result, torch.Tensor):
        return [result] if result.is_floating_point() or result.is_complex() else []
    return [t for part in result or () for t in outputs(part)]


def seed_for(y, k):
    n = y.numel()
    return torch.arange(1, n + 1, dtype=torch.double, device=y.device).mul(0.7 + k).sin().reshape(y.shape).to(y.dtype)


def gradients(y, x, copies=None, **options):
    x = [t for t in x if t.requires_grad]
    y = [t for t in y if t.requires_grad]
    if not x or not y:
        return [None] * len(x)
    seeds = [seed_for(t, k) for k, t in enumerate(y)]
    seeds = [torch.stack([t] * copies) for t in seeds] if copies else seeds
    return list(torch.autograd.grad(y, x, seeds, allow_unused=True, **options))


def value(f, x):
    return outputs(f(*x))


def first(f, x):
    """Values and gradients."""
    y = outputs(f(*x))
    return y + gradients(y, x)


def second(f, x):
    """First and second derivatives."""
    y = outputs(f(*x))
    dx = gradients(y, x, create_graph=True)
    return y + dx + gradients([t.sin() for t in dx if t is not None], x)


def twice(f, x):
    """Two passes over one graph, the second of which is a mistake in PyTorch unless
    nothing was saved; its result is not looked at.
    """
    y = outputs(f(*x))
    dx = gradients(y, x, retain_graph=True)
    again = gradients(y, x)
    try:
        gradients(y, x)
    except RuntimeError:
        pass
    return y + dx + again


def backward(f, x):
    """`.backward()`, into the leaves."""
    y = outputs(f(*x))
    sum((t * seed_for(t, k)).sum() for k, t in enumerate(y)).backward()
    return y + [t.grad for t in x]


def backward_elsewhere(f, x):
    """The pass runs in another thread."""
    found = []

    def work():
        try:
            found.append(backward(f, x))
        except BaseException as e:
            found.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def batched(f, x):
    """One pass for several seeds, by vmap."""
    y = outputs(f(*x))
    return y + gradients(y, x, copies=2, is_grads_batched=True)


def dual(f, x):
    """Forward mode."""
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, t.detach().cos()) for t in x]
        y = [forward_ad.unpack_dual(t) for t in outputs(f(*duals))]
        return [t for pair in y for t in (pair.primal, pair.tangent)]


def many(run, n=4):
    """`run` in several threads at once."""

    def run_all(f, x):
        found = [None] * n

        def work(i):
            try:
                found[i] = run(f, [t.detach().clone().requires_grad_(t.requires_grad) for t in x])
            except BaseException as e:
                found[i] = e

        threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return [t for result in found for t in result]

    return run_all


def traced(run, mode="real"):
    """Values and gradients of a graph that make_fx has made of a whole run."""

    def run_traced(f, x):
        needs = [t.requires_grad for t in x]

        def whole(*x):
            return run(f, [t.detach().requires_grad_(n) for t, n in zip(x, needs)])

        graph = make_fx(whole, tracing_mode=mode, _allow_non_fake_inputs=True)(*x)
        return list(graph(*x))

    return run_traced


def under(run, context):
    """`run` under a mode or another context, which `context` makes."""

    def run_under(f, x):
        with context():
            return run(f, x)

    return run_under


def wrapper_tensors(run):
    def run_wrapped(f, x):
        y = run(f, [Wrapper(t.detach()).requires_grad_(t.requires_grad) for t in x])
        return [t.inner if isinstance(t, Wrapper) else t for t in y]

    return run_wrapped


# What a function can be wrapped in: each takes one and returns one.


def compiled(backend="aot_eager", dynamic=None, fullgraph=False):
    def wrap(f):
        torch._dynamo.reset()
        g = torch.compile(lambda *x: f(*x), backend=backend, dynamic=dynamic, fullgraph=fullgraph)

        def call(*x):
            if all(t.dim() and t.shape[0] > 1 for t in x):  # and for another shape
                g(*(t.detach()[1:].requires_grad_(t.requires_grad) for t in x))
            return g(*x)

        return call

    return wrap


def graph_of(mode):
    """The graph of the function alone."""
    return lambda f: lambda *x: make_fx(f, tracing_mode=mode, _allow_non_fake_inputs=True)(*x)(*x)


def checkpointed(reentrant=False):
    return lambda f: lambda *x: checkpoint(f, *x, use_reentrant=reentrant)


def within(context):
    def wrap(f):
        def call(*x):
            with context():
                return f(*x)

        return call

    return wrap


def scripted(f):
    return lambda *x: torch.jit.trace(lambda *x: tuple(outputs(f(*x))), x, check_trace=False)(*x)


def flat(f):
    return lambda *x: tuple(outputs(f(*x)))


def total(f):
    return lambda *x: sum(y.sin().sum() for y in outputs(f(*x)))


def with_grad(f):
    return lambda *x: grad(total(f), tuple(range(len(x))))(*x)


def with_vjp(f):
    def call(*x):
        y, back = vjp(flat(f), *x)
        return back(tuple(seed_for(t, k) for k, t in enumerate(y)))

    return call


def with_jvp(f):
    return lambda *x: jvp(flat(f), x, tuple(t.cos() for t in x))[1]


def with_jacrev(f):
    return lambda *x: jacrev(flat(f), tuple(range(len(x))))(*x)


def with_jacfwd(f):
    return lambda *x: jacfwd(flat(f), tuple(range(len(x))))(*x)


def with_vmap(f):
    return lambda *x: vmap(flat(f))(*(torch.stack([t, t * 0.5, t - 1]) for t in x))


def with_vmap_of_first(f):
    """The other inputs are no batches, and the batch is the last dimension."""

    def call(*x):
        batch = torch.stack([x[0], x[0] * 0.5], -1)
        return vmap(flat(f), in_dims=(-1,) + (None,) * (len(x) - 1), out_dims=-1)(batch, *x[1:])

    return call


def with_functionalize(f):
    return lambda *x: functionalize(flat(f))(*x)


def collecting(f):
    def call(*x):
        y = f(*x)
        gc.collect()
        return y

    return call


def saving(pack, unpack=lambda t: t):
    """Under hooks of saved tensors."""
    return within(lambda: torch.autograd.graph.saved_tensors_hooks(pack, unpack))
