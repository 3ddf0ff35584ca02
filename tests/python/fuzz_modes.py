"""Hooks, modes and tensors that look on, raise, or pass junk, for fuzz_ways.py."""

import gc
import random
from collections import Counter
from contextlib import contextmanager

import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fuzz_plain import Planned, plain, rust


def raises(*_):
    raise Planned("a hook that raises")


def interrupts(*_):
    raise KeyboardInterrupt


def exits(*_):
    raise SystemExit(3)


def collects(*_):
    gc.collect()


def recurses(*_):
    recurses()


def returns_junk(g, *_):
    return g.new_ones(7, 7) if isinstance(g, torch.Tensor) else (g, g)


def doubles(g, *_):
    return g * 2 if isinstance(g, torch.Tensor) else tuple(t if t is None else t * 2 for t in g)


def runs_a_pass(*_):
    """A pass inside of a pass."""
    with torch.enable_grad():
        x = torch.tensor([0.5, -0.5], requires_grad=True)
        rust.recomputed(rust.leaky(x, 0.5)).sum().backward()


def fails_inside(*_):
    with torch.enable_grad():
        x = torch.tensor([0.5, -0.5], requires_grad=True)
        try:
            rust.fails(x, random.choice(["backward err", "backward panic"])).sum().backward()
        except RuntimeError:
            pass


class InPython(torch.autograd.Function):
    """An op of Rust's inside of a Function of Python's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, ops):
        return ops.log1pexp(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.ops = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        # The derivative of log(1 + e^x), without an op that has no second one.
        return dy * torch.sigmoid(ctx.ops.leaky(x, 1.0)), None


def compiled_passes():
    """Backward passes are compiled."""
    from torch._dynamo import compiled_autograd

    return compiled_autograd._enable(torch.compile(backend="eager", dynamic=True))


def hook(t, f, on="tensor"):
    """`t`, with a hook on it or on its node."""
    if not t.requires_grad:
        return t
    if on == "tensor":
        t.register_hook(f)
    elif on == "node" and t.grad_fn is not None:
        t.grad_fn.register_hook(lambda grads, dy: f(grads) if f is not doubles else None)
    elif on == "before" and t.grad_fn is not None:
        t.grad_fn.register_prehook(lambda dy: f(dy) if f is not returns_junk else (*dy, *dy))
    elif on == "after" and t.is_leaf:
        t.register_post_accumulate_grad_hook(lambda t: f(t) and None)
    return t


class Log(TorchDispatchMode):
    """Counts, and runs what it sees."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Raises(TorchDispatchMode):
    """Raises at one of the ops of this crate, the `at`-th."""

    def __init__(self, at, error=Planned):
        super().__init__()
        self.at, self.error = at, error

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("tf_test", "tf_fuzz"):
            self.at -= 1
            if self.at < 0:
                raise self.error("a mode that raises")
        return func(*args, **(kwargs or {}))


class LogFunctions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


JUNK_INTS = [0, 1, -1, 2, 3, 7, 1000, 2**31, 2**63 - 1, -(2**63), 2**40]


def junk_ints(rng, ints):
    """A list of integers that is nearly right, or not at all."""
    ints = list(ints)
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(ints) + 1)
        how = rng.randrange(5)
        if how == 0:
            ints = ints[:at]
        elif how == 1:
            ints.insert(at, rng.choice(JUNK_INTS))
        elif how == 2:
            ints = [rng.choice(JUNK_INTS) for _ in range(rng.randrange(8))]
        elif ints:
            ints[at % len(ints)] = rng.choice(JUNK_INTS)
    return ints


def junk_tensor(rng, t):
    if not isinstance(t, torch.Tensor):
        return t
    with torch.no_grad():
        return rng.choice(
            [
                lambda: t.new_ones(rng.choice([(), (0,), (3,), (2, 2), (1, 5, 1)])),
                lambda: t.double(),
                lambda: t.long(),
                lambda: t.to(torch.complex64),
                lambda: torch.empty(t.shape, device="meta"),
                lambda: t.to_sparse() if t.dim() else t,
                lambda: t.expand(2, *t.shape),
                lambda: t.new_empty(0),
                lambda: t.detach().requires_grad_() if t.is_floating_point() else t,
                lambda: t.conj() if t.is_complex() else torch._neg_view(t),
            ]
        )()


def junk_like(rng, value, what):
    """An argument of an inner op, or its result, replaced by junk."""
    if isinstance(value, (list, tuple)) and value and all(type(v) is bool for v in value):
        if what != "needs":
            return value
        return [rng.random() < 0.5 for _ in range(rng.randrange(len(value) + 3))]
    if isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
        return junk_ints(rng, value) if what == "plan" else value
    if what == "tensors":
        if isinstance(value, torch.Tensor) and rng.random() < 0.4:
            return junk_tensor(rng, value)
        if isinstance(value, (list, tuple)):
            value = [junk_like(rng, v, what) for v in value]
            return value[: rng.randrange(len(value) + 1)] if rng.random() < 0.2 else value
    return value


class Junk(TorchDispatchMode):
    """Passes junk on to the inner forward and backward ops, or gives it back."""

    def __init__(self, seed, what, side="arguments"):
        super().__init__()
        self.rng, self.what, self.side = random.Random(seed), what, side

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inner = func.namespace in ("tf_test", "tf_fuzz")
        if inner and self.side == "arguments":
            args = [junk_like(self.rng, arg, self.what) for arg in args]
        result = func(*args, **(kwargs or {}))
        if inner and self.side == "results":
            if isinstance(result, (list, tuple)):
                result = tuple(junk_like(self.rng, r, self.what) for r in result)
            else:
                result = junk_like(self.rng, result, self.what)
        return result


class Wrapper(torch.Tensor):
    """A tensor that holds another, and unwraps it for every op."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, requires_grad=inner.requires_grad
        )

    def __init__(self, inner):
        self.inner = inner.detach()

    def __repr__(self):
        return f"Wrapper({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        unwrap = lambda t: t.inner if isinstance(t, Wrapper) else t
        wrap = lambda t: Wrapper(t) if isinstance(t, torch.Tensor) else t
        return tree_map(wrap, func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs or {})))
