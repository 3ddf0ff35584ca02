"""What the scripts of fuzz_calls.py are made of: `same` runs a function of ops with
Rust's and with PyTorch's own, in one of the ways of fuzz_ways.py, and compares.
"""

import atexit
import copy
import gc
import pickle
import random
import signal
import threading
import time
import weakref
from collections import Counter
from contextlib import contextmanager
from functools import partial

import torch
from torch.autograd import forward_ad
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.checkpoint import checkpoint

from fuzz_modes import *
from fuzz_plain import Planned, fuzz_ops, ops, plain, rust
from fuzz_ways import *

# What the comparisons of this process came to.
COUNTS = Counter()
# What lives until the process ends.
KEPT = []

LONGEST_TEXT = 2000
BAD_WORDS = ["INTERNAL ASSERT", "please report a bug", "Exception raised from", "frame #"]

# Texts of PyTorch's own, from calls that are not to an op of this crate.
OF_PYTORCH = ("Could not run 'aten::", "torch.compile with fullgraph=True found no compiled frames")
OF_PYTORCH += ("The following operation failed in the TorchScript interpreter",)


class Wrong(BaseException):
    """A promise was broken; no `except Exception` hides it."""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Spoiled(BaseException):
    """PyTorch's own formula has left the process in a state in which nothing more can be
    compared.
    """


def tensor(shape, seed, dtype=torch.double, requires_grad=True):
    """Numbers between -2 and 2."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(shape, generator=generator, dtype=torch.double) * 4 - 2
    return t.to(dtype).requires_grad_(requires_grad)


def copies(x):
    return [t.detach().clone().requires_grad_(t.requires_grad) for t in x]


def chain(error):
    """An exception, and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def faults_of(error):
    """What is wrong with an exception's text. torch.compile's own exceptions quote all
    arguments of a call, and may be longer.
    """
    text = str(error)
    if text.startswith(OF_PYTORCH):
        return []
    longest = LONGEST_TEXT * (10 if type(error).__module__.startswith("torch.") else 1)
    long = [f"{len(text)} characters"] if len(text) > longest else []
    return long + [word for word in BAD_WORDS if word in text]


def check_text(error, expected=None):
    """An exception is short, has no C++ in it, and can be pickled. What PyTorch's own
    formula says too is no fault of the op's.
    """
    theirs = {type(e) for e in chain(expected) if faults_of(e)} if isinstance(expected, BaseException) else ()
    for e in chain(error):
        faults = faults_of(e)
        if faults and type(e) not in theirs:
            raise Wrong("text", f"{type(e).__name__} with {', '.join(faults)}: {e!s:.1500}")
    if type(error) is RuntimeError:
        again = pickle.loads(pickle.dumps(error))
        if str(again) != str(error) or str(copy.copy(error)) != str(error):
            raise Wrong("pickle", f"{error!r} became {again!r}")


def count(error, beside):
    COUNTS[f"raised {beside}"] += 1
    COUNTS[f"reason: raised {beside}: {type(error).__name__}: {str(error)[:100]!r}"] += 1


def outcome(f):
    """What `f` returns, or raises."""
    try:
        return f()
    except (Exception, KeyboardInterrupt, SystemExit) as e:
        return e


def state():
    """What a call must leave as it was."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
        "torch.func levels": torch._C._functorch.maybe_current_level(),
        "dual level": forward_ad._current_level,
        "autocast": torch.is_autocast_enabled("cpu"),
        "included keys": str(torch._C._dispatch_tls_local_include_set()),
        "excluded keys": str(torch._C._dispatch_tls_local_exclude_set()),
        "saved tensor hooks": torch._C._autograd._top_saved_tensors_default_hooks(True) is not None,
        "anomaly mode": torch.is_anomaly_enabled(),
    }


def difference(before, after):
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def tolerance(t):
    # In bfloat16 a second derivative is off by a third now and then.
    return {torch.double: 1e-9, torch.float: 2e-4}.get(t.dtype, 0.5)


def has_no_numbers(t):
    """A tracer's tensor that escaped it; or one of 2^34 elements, which PyTorch's vmap
    makes of a constant under torch.compile.
    """
    return t.is_meta or t.numel() > 1 << 20 or isinstance(t, FakeTensor) or torch._is_functional_tensor(t)


def compare(found, expected, near=0.0):
    if len(found) != len(expected):
        raise Wrong("differs", f"{len(found)} results for {len(expected)}")
    for i, (a, b) in enumerate(zip(found, expected)):
        if a is None and b is None:
            continue
        if a is None or b is None:  # no gradient is one of zeros
            a, b = (torch.zeros_like(b if a is None else a) if t is None else t for t in (a, b))
        if a.shape != b.shape or a.dtype != b.dtype:
            raise Wrong("differs", f"result {i} is {a.dtype} {list(a.shape)}, expected {b.dtype} {list(b.shape)}")
        if has_no_numbers(a) or has_no_numbers(b):
            COUNTS["compared by shape"] += 1
            continue
        limit = max(near, tolerance(a))
        if not torch.allclose(a.detach(), b.detach(), rtol=limit, atol=limit, equal_nan=True):
            raise Wrong("differs", f"result {i} is\n{a.detach()}, expected\n{b.detach()}")


def same(f, x, run, *wraps, near=0.0):
    """`run` calls `f` inside of all `wraps`, the first one innermost. `near` is the
    tolerance, where the dtype's is too small.
    """
    before = state()
    expected = outcome(lambda: run(wrapped(partial(f, plain), wraps), copies(x)))
    if difference(before, state()):
        raise Spoiled
    found = outcome(lambda: run(wrapped(partial(f, rust), wraps), copies(x)))
    left = difference(before, state())
    if left:
        raise Wrong("state", f"a call left {left}; it returned {found!r:.300}")
    if isinstance(found, BaseException):
        count(found, "as the formula" if isinstance(expected, BaseException) else "where the formula works")
        check_text(found, expected)
        return found
    if isinstance(expected, BaseException):
        if any(isinstance(e, Planned) for e in chain(expected)):
            raise Wrong("lost", f"no exception, but {found!r:.300}")
        COUNTS["only ours works"] += 1
        return found
    compare(found, expected, near)
    COUNTS["equal"] += 1
    return found


def wrapped(f, wraps):
    for wrap in wraps:
        f = wrap(f)
    return f


@contextmanager
def tolerated(*expected):
    """Any exception is fine in here, so long as its text is; or one of those `expected`
    must come.
    """
    before = state()
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit) as e:
        error = e
    else:
        error = None
    left = difference(before, state())
    if left:
        raise Wrong("state", f"a call left {left}; it raised {error!r:.300}")
    if error is not None:
        count(error, "where anything may happen")
        check_text(error)
    if expected and not any(isinstance(e, expected) for e in chain(error)):
        raise Wrong("lost", f"expected {expected}, found {error!r:.300}")


def alive():
    """The ops still do what they should."""
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    y = ops.leaky(x, 0.5)
    y.backward(torch.tensor([1.0, 3.0]))
    if y.tolist() != [-0.5, 2] or x.grad.tolist() != [0.5, 3]:
        raise Wrong("broken", f"leaky is {y} with {x.grad}")
