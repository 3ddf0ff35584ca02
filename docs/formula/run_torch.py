"""Compares the ops by hand in PyTorch with libtorch's own derivatives, and says what works.

    python run_torch.py LIBRARY REFERENCE

LIBRARY is what torch.cpp was compiled to. REFERENCE gets libtorch's numbers, for the others.
"""

import sys
import warnings

import torch

import torch_custom_op
import torch_function
import torch_plain

SCALE = 0.7
DOUBLE = torch.float64
torch.ops.load_library(sys.argv[1])
WAYS = {
    "plain": torch_plain,
    "autograd.Function": torch_function,
    "custom_op": torch_custom_op,
    "C++": torch.ops.by_hand_cpp,
}


def points():
    """No input is 0: softplus as it is written has kinks there."""
    i = torch.arange(13, dtype=DOUBLE)
    return (i - 6.2) * 0.5, (i * 5 % 13 - 6) * 0.4, (i * 7 % 13 - 6) * 0.3


def ops(way):
    """Each op with its inputs' number."""
    return [("softplus", way.softplus, 1), ("gate", lambda a, b, c: way.gate(a, b, c, SCALE), 3)]


def derivatives(op, x):
    """The value, the gradients, and those of a sum of the gradients."""
    x = [t.detach().requires_grad_() for t in x]
    y = op(*x)
    seed = torch.linspace(0.5, 1.5, y.numel(), dtype=DOUBLE).reshape(y.shape).to(y.dtype)
    first = torch.autograd.grad(y, x, seed, create_graph=True)
    plain = torch.autograd.grad(op(*x), x, seed)
    second = torch.autograd.grad(sum((i + 1) * (dx * dx).sum() for i, dx in enumerate(first)), x)
    return y, *first, *plain, *second


def agree(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def first_and_second(op, plain, x):
    agree(derivatives(op, x), derivatives(plain, x))


def broadcasting(op, plain, x):
    x = [t[: 13 - 6 * i].reshape(-1, *[1] * i) for i, t in enumerate(x)]
    agree(derivatives(op, x), derivatives(plain, x))


def forward_mode(op, plain, x):
    dx = tuple(t.cos() for t in x)
    agree(torch.func.jvp(op, tuple(x), dx), torch.func.jvp(plain, tuple(x), dx))


def vmap(op, plain, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fallback that is slow warns
        agree([torch.func.vmap(op)(*x)], [plain(*x)])


def func_grad(op, plain, x):
    sums = [lambda *x, f=f: f(*x).sum() for f in (op, plain)]
    agree([torch.func.grad(sums[0])(*x)], [torch.func.grad(sums[1])(*x)])


def hessian(op, plain, x):
    sums = [lambda *x, f=f: f(*x).sum() for f in (op, plain)]
    agree([torch.func.hessian(sums[0])(*x)], [torch.func.hessian(sums[1])(*x)])


def export(op, plain, x):
    class Module(torch.nn.Module):
        def forward(self, *x):
            return op(*x)

    program = torch.export.export(Module(), tuple(x))
    agree([program.module()(*x)], [plain(*x)])


def other_dtypes(op, plain, x):
    for kind in torch.float32, torch.float16, torch.bfloat16:
        y = [t.to(kind) for t in x]
        found, expected = derivatives(op, y), derivatives(plain, [t.double() for t in y])
        # gradients only
        n = 1 + 2 * len(x)
        assert all(t.dtype == kind for t in found)
        unit = torch.finfo(kind).eps
        agree([t.double() for t in found[:n]], expected[:n], atol=16 * unit, rtol=8 * unit)


def mixed_dtypes(op, plain, x):
    x = [x[0].float(), *x[1:]] if len(x) > 1 else [torch.arange(3)]
    agree([op(*x)], [plain(*x)])


def small_slope(op, plain, x):
    """The derivative of the gate in b where tanh is nearly 1; it is 3.23853e-8."""
    if len(x) == 3:
        x = [torch.tensor(number, requires_grad=True) for number in (4.0, 2.5, 0.0)]
        found = torch.autograd.grad(op(*x), x)[1].item()
        assert abs(found / 3.23853e-8 - 1) < 1e-4, found


TESTS = [
    first_and_second, broadcasting, forward_mode, vmap, func_grad, hessian, export, other_dtypes,
    mixed_dtypes, small_slope,
]  # fmt: skip


def write_reference(path):
    """A line each: the op, and all that `derivatives` returns."""
    with open(path, "w") as file:
        for name, op, n in ops(torch_plain):
            numbers = torch.cat([t.detach().flatten() for t in derivatives(op, points()[:n])])
            print(name, *numbers.tolist(), file=file)


def main():
    write_reference(sys.argv[2])
    for way, module in WAYS.items():
        for (name, op, n), (_, plain, _) in zip(ops(module), ops(torch_plain)):
            for test in TESTS:
                try:
                    test(op, plain, points()[:n])
                    result = "ok"
                except Exception as error:
                    result = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:150]}"
                print(f"{way:18} {name:9} {test.__name__:17} {result}", flush=True)


if __name__ == "__main__":
    main()
