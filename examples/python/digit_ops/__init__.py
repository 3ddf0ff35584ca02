"""Ops written in Rust, as PyTorch functions and modules.

Loading the library registers `torch.ops.digit_ops`; the rest of this file gives
the ops names, defaults and documentation. The types are in `__init__.pyi`.
"""

from pathlib import Path

import torch
from torch import nn

__all__ = ["squareplus", "cross_entropy", "Squareplus", "CrossEntropy"]

_LIBRARY = "libdigit_ops.so"
_HERE = Path(__file__).resolve().parent


def _library():
    """Beside this file, or else where cargo has put it: the newest build."""
    target = _HERE.parent.parent.parent / "target"
    places = [_HERE, target / "release", target / "debug"]
    found = [place / _LIBRARY for place in places if (place / _LIBRARY).exists()]
    if not found:
        looked = ", ".join(map(str, places))
        raise ImportError(f"{_LIBRARY} is in none of {looked}; `make example-python` builds it")
    return max(found, key=lambda path: path.stat().st_mtime)


torch.ops.load_library(_library())


def squareplus(x, b=4.0):
    """`(x + sqrt(x^2 + b)) / 2` of every element: a smooth relative of `relu`.

    `x`: floating-point, of any shape. `b`: positive.
    """
    return torch.ops.digit_ops.squareplus(x, b)


def cross_entropy(scores, labels, smoothing=0.0):
    """The mean cross entropy of `softmax(scores)`, with smoothed labels.

    `scores`: `[N, C]`, floating-point. `labels`: `[N]`, int64, from 0 to C - 1.
    `smoothing`: the share of each label that all classes get, 0 to 1.
    """
    return torch.ops.digit_ops.cross_entropy(scores, labels, smoothing)


class Squareplus(nn.Module):
    """`squareplus` as a layer."""

    def __init__(self, b=4.0):
        super().__init__()
        self.b = b

    def forward(self, x):
        return squareplus(x, self.b)

    def extra_repr(self):
        return f"b={self.b}"


class CrossEntropy(nn.Module):
    """`cross_entropy` as a layer."""

    def __init__(self, smoothing=0.0):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, scores, labels):
        return cross_entropy(scores, labels, self.smoothing)

    def extra_repr(self):
        return f"smoothing={self.smoothing}"
