"""torch.func: grad, vmap, jvp, and what is made of them."""

import itertools
import unittest

import torch
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn import functional as F

from cases import CASES, outputs
from ops_under_test import ops


def total(f):
    """A number made of all outputs, with a derivative that depends on them."""
    return lambda *x: sum(y.sin().sum() for y in outputs(f(*x)))


class Func(unittest.TestCase):
    def test_grad(self):
        for case in CASES:
            with self.subTest(case.name):
                x = case.inputs(requires_grad=False)
                argnums = tuple(range(len(x)))
                found = grad(total(case.run), argnums)(*x)
                for a, b in zip(found, grad(total(case.expect), argnums)(*x)):
                    torch.testing.assert_close(a, b)

    def test_vmap(self):
        for case in CASES:
            with self.subTest(case.name):
                batches = [torch.stack([t, -t, 2 * t]) for t in case.inputs(requires_grad=False)]
                for f in [lambda f: lambda *x: outputs(f(*x)), lambda f: grad(total(f))]:
                    found, expected = vmap(f(case.run))(*batches), vmap(f(case.expect))(*batches)
                    found, expected = outputs(found), outputs(expected)
                    self.assertEqual(len(found), len(expected))
                    for a, b in zip(found, expected):
                        torch.testing.assert_close(a, b)

    def test_a_formula_broadcasts_inside_vmap(self):
        """Libtorch's rules for batches then make views of what is inside."""
        torch.manual_seed(2)
        x, w, s = (torch.randn(shape, dtype=torch.double) for shape in [(5, 3, 4), (5, 4), (5, 3, 1)])
        gate = torch.ops.tf_formula.gate

        def expected(x, w, s):
            return w * torch.tanh(s * (x - 0.3))

        def found(x, w, s):
            return gate(x, w, s, 0.3)[0]

        for f in [lambda f: f, lambda f: grad(lambda *x: f(*x).sin().sum(), (0, 1, 2))]:
            a, b = vmap(f(found))(x, w, s), vmap(f(expected))(x, w, s)
            torch.testing.assert_close(a, b)

    def test_a_gradient_from_outside_goes_through_wrappers(self):
        for case in CASES:
            levels = {
                "vmap": vmap,
                "functionalize": functionalize,
                "functionalize of vmap": lambda f: functionalize(vmap(f)),
                "vmap of functionalize": lambda f: vmap(functionalize(f)),
                "functionalize of vmap of vmap": lambda f: functionalize(vmap(vmap(f))),
            }
            for name, level in levels.items():
                with self.subTest(case.name, level=name):
                    stack = (lambda t: torch.stack([t, -t])) if "vmap" in name else lambda t: t
                    if "vmap of vmap" in name:
                        stack = lambda t: torch.stack([torch.stack([t, -t]), torch.stack([t / 2, t])])
                    x = [stack(t).detach().requires_grad_() for t in case.inputs()]

                    def gradients(f):
                        y = total(level(lambda *x: outputs(f(*x))))(*x)
                        return torch.autograd.grad(y, x, allow_unused=True)

                    for a, b in zip(gradients(case.run), gradients(case.expect)):
                        torch.testing.assert_close(a, b)

    def test_vmap_of_some_inputs_and_other_dimensions(self):
        x, bias = torch.randn(4, 2, 3), torch.randn(3)
        f = lambda op: vmap(lambda x, b: op(x, b), in_dims=(1, None), out_dims=1)(x, bias)
        torch.testing.assert_close(f(lambda x, b: ops.affine(x, b, 2.0)), f(lambda x, b: 2 * x + b))
        nested = lambda op: vmap(vmap(op, in_dims=1, out_dims=1))(x)
        torch.testing.assert_close(nested(ops.log1pexp), nested(F.softplus))
        with self.assertRaisesRegex(RuntimeError, "vmap over a batch of 0"):
            vmap(ops.same)(torch.ones(0, 2))
        with self.assertRaisesRegex(RuntimeError, "in place"):
            vmap(ops.increment_)(torch.ones(2, 2))

    def test_derivatives_of_derivatives(self):
        x = torch.randn(4, dtype=torch.double)
        f = lambda op: lambda x: op(x * x - 0.5).sin().sum()
        references = {ops.leaky: F.leaky_relu, ops.recomputed: F.softplus, ops.log1pexp: F.softplus}
        for op, reference in references.items():
            forward_mode = op is ops.leaky
            ways = [grad, jacrev, jacfwd] if forward_mode else [grad, jacrev]
            for outer, inner in itertools.product(ways, ways):
                with self.subTest(f"{outer.__name__} of {inner.__name__} of {op}"):
                    both = lambda f: outer(lambda x: inner(f)(x).cos().sum())(x)
                    torch.testing.assert_close(both(f(op)), both(f(reference)))
            third = lambda f: grad(lambda x: grad(lambda x: grad(f)(x).sin().sum())(x).sin().sum())(x)
            torch.testing.assert_close(third(f(op)), third(f(reference)))
        torch.testing.assert_close(hessian(f(ops.leaky))(x), hessian(f(F.leaky_relu))(x))

    def test_once_is_once_at_an_outer_level_too(self):
        for op in [ops.once, torch.ops.tf_fuzz.inner_pass]:
            x = torch.rand(3, requires_grad=True)
            pulled_back = lambda f: lambda x: vjp(f, x)[1](torch.ones(3))[0]
            for level in [jacrev, lambda f: grad(total(f)), lambda f: vmap(grad(f)), pulled_back]:
                with self.assertRaisesRegex(RuntimeError, "second derivative"):
                    torch.autograd.grad(level(op)(x).sum(), x)

    def test_what_pytorch_would_lose_is_an_error(self):
        x = torch.randn(4)
        for op, text in [(ops.intermediate, "saved tensor 0"), (ops.cube, "no second derivative"), (ops.once, "deriv")]:
            first = grad(lambda x: op(x).sum())
            lazy = lambda x: vjp(lambda x: op(x).sum(), x)[1](torch.ones(()))[0]
            ways = {
                "grad of grad": lambda: grad(lambda x: first(x).sum())(x),
                "vjp of grad": lambda: vjp(first, x)[1](torch.ones(4)),
                "grad of vjp": lambda: grad(lambda x: lazy(x).sum())(x),
                "jacrev of jacrev": lambda: jacrev(jacrev(lambda x: op(x).sum()))(x),
                "vmap of both": lambda: vmap(grad(lambda x: first(x).sum()))(x.view(2, 2)),
                "grad of vmap": lambda: grad(lambda x: vmap(first)(x.view(2, 2)).sum())(x),
                "eager of grad": lambda: first(x.clone().requires_grad_()).sum().backward(),
            }
            for name, way in ways.items():
                with self.subTest(f"{name} of {op}"), self.assertRaisesRegex(RuntimeError, text):
                    way()

    def test_gradients_outside_of_a_transformation(self):
        z = torch.randn(4, dtype=torch.double, requires_grad=True)
        f = lambda op: lambda x: op(x * x - 0.5).sin().sum()
        ways = [
            lambda op: vmap(op)(z.view(2, 2)),
            lambda op: grad(f(op))(z),
            lambda op: vmap(grad(f(op)))(z.view(2, 2)),
            lambda op: jvp(f(op), (z,), (z.sin(),))[1],
            lambda op: hessian(f(op))(z),
        ]
        for i, way in enumerate(ways):
            with self.subTest(i):
                found, expected = (torch.autograd.grad(way(op).sum(), z)[0] for op in (ops.leaky, F.leaky_relu))
                torch.testing.assert_close(found, expected)

    def test_forward_mode(self):
        x = torch.randn(2, 4)
        f = lambda op: vmap(lambda x: jvp(op, (x,), (x.sin(),))[1])(x)
        torch.testing.assert_close(f(ops.leaky), f(F.leaky_relu))
        for op in [ops.same, ops.intermediate]:
            with self.assertRaisesRegex(RuntimeError, "has no jvp"):
                jvp(op, (x,), (x,))
            with self.assertRaisesRegex(RuntimeError, "has no jvp"):
                jacfwd(grad(lambda x: op(x).sum()))(x)


if __name__ == "__main__":
    unittest.main()
