"""examples/python: its ops pass PyTorch's checkers, and its stubs tell the truth."""

import ast
import inspect
import sys
import unittest

import torch
from torch.nn import functional as F

from ops_under_test import ROOT

sys.path.insert(0, str(ROOT / "examples/python"))
import digit_ops


def squareplus(x, b=4.0):
    return (x + (x * x + b).sqrt()) / 2


def example():
    torch.manual_seed(5)
    scores = torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    return scores, torch.tensor([0, 3, 1, 2, 2, 0])


class Ops(unittest.TestCase):
    def setUp(self):
        self.x, self.labels = example()

    def test_values_and_gradients_are_those_of_pytorch(self):
        def expected(x):
            return F.cross_entropy(squareplus(x), self.labels, label_smoothing=0.1)

        def found(x):
            return digit_ops.CrossEntropy(0.1)(digit_ops.Squareplus()(x), self.labels)

        for dtype in [torch.double, torch.float]:
            x = self.x.detach().to(dtype).requires_grad_()
            for f in [expected(x), found(x)]:
                self.assertEqual(f.dtype, dtype)
            torch.testing.assert_close(found(x), expected(x))
            (a,), (b,) = torch.autograd.grad(found(x), x), torch.autograd.grad(expected(x), x)
            torch.testing.assert_close(a, b)

    def test_opcheck(self):
        torch.library.opcheck(torch.ops.digit_ops.squareplus.default, (self.x, 2.0))
        torch.library.opcheck(torch.ops.digit_ops.cross_entropy.default, (self.x, self.labels, 0.1))

    def test_gradcheck_and_gradgradcheck(self):
        for f in [digit_ops.squareplus, lambda x: digit_ops.cross_entropy(x, self.labels, 0.1)]:
            torch.autograd.gradcheck(f, self.x)
            torch.autograd.gradgradcheck(f, self.x)

    def test_vmap(self):
        slope = torch.func.vmap(torch.func.grad(lambda x: digit_ops.squareplus(x, 2.0)))
        expected = torch.func.vmap(torch.func.grad(lambda x: squareplus(x, 2.0)))
        x = self.x.detach().flatten()
        torch.testing.assert_close(slope(x), expected(x))

    def test_compiled_with_dynamic_shapes(self):
        def loss(x, labels):
            return digit_ops.cross_entropy(digit_ops.squareplus(x), labels, 0.1)

        compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
        for rows in [6, 3]:
            x, labels = self.x[:rows].detach().requires_grad_(), self.labels[:rows]
            found, expected = compiled(x, labels), loss(x, labels)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(*(torch.autograd.grad(y, x)[0] for y in [found, expected]))

    def test_a_wrong_argument_is_an_error(self):
        with self.assertRaisesRegex(RuntimeError, "b is -1; give a positive number"):
            digit_ops.squareplus(self.x, -1.0)


class Stubs(unittest.TestCase):
    """`__init__.pyi` has what the package has, with the same parameters and defaults."""

    def setUp(self):
        path = ROOT / "examples/python/digit_ops/__init__.pyi"
        self.stubs = ast.parse(path.read_text())

    def functions(self, body, prefix=""):
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from self.functions(node.body, f"{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                yield prefix + node.name, node.args

    def test_signatures(self):
        found = dict(self.functions(self.stubs.body))
        self.assertLessEqual(set(digit_ops.__all__), {name.split(".")[0] for name in found})
        for name, args in found.items():
            if name.endswith(".__call__"):
                continue  # nn.Module's, with the parameters of forward
            owner = digit_ops
            for part in name.split("."):
                owner = getattr(owner, part)
            parameters = inspect.signature(owner).parameters.values()
            with self.subTest(name):
                self.assertEqual([a.arg for a in args.args], [p.name for p in parameters])
                defaults = [p.default for p in parameters if p.default is not p.empty]
                self.assertEqual([ast.literal_eval(d) for d in args.defaults], defaults)

    def test_defaults_are_those_of_the_schemas(self):
        for name in ["squareplus", "cross_entropy"]:
            schema = getattr(torch.ops.digit_ops, name).default._schema
            parameters = inspect.signature(getattr(digit_ops, name)).parameters
            self.assertEqual(
                [(a.name, a.default_value) for a in schema.arguments],
                [(p.name, None if p.default is p.empty else p.default) for p in parameters.values()],
            )


if __name__ == "__main__":
    unittest.main()
