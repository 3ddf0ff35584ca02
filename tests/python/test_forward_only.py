"""An op without a backward: it runs, and its gradient is an error."""

import unittest

import torch

from ops_under_test import ops

REFUSAL = "tf_test::round_to: it has no backward"


class ForwardOnly(unittest.TestCase):
    def setUp(self):
        self.x = torch.tensor([0.7, 1.3], requires_grad=True)
        self.y = torch.tensor([0.5, 1.5])

    def run_it(self, x):
        return ops.round_to(x, 0.5)

    def test_the_gradient_is_an_error(self):
        y = self.run_it(self.x)
        torch.testing.assert_close(y.detach(), self.y)
        with self.assertRaisesRegex(RuntimeError, REFUSAL):
            y.sum().backward()
        self.assertIsNone(self.x.grad)

    def test_under_torch_func(self):
        torch.testing.assert_close(torch.vmap(self.run_it)(self.x.detach()), self.y)
        with self.assertRaisesRegex(RuntimeError, REFUSAL):
            torch.func.grad(lambda x: self.run_it(x).sum())(self.x.detach())

    def test_nobody_asks(self):
        with torch.no_grad():
            torch.testing.assert_close(self.run_it(self.x), self.y)
        self.assertFalse(self.run_it(self.x.detach()).requires_grad)

    def test_opcheck(self):
        torch.library.opcheck(ops.round_to.default, (self.x.detach(), 0.5))

    def test_compiled(self):
        compiled = torch.compile(self.run_it, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(self.x.detach()), self.y)
        with torch.no_grad():
            torch.testing.assert_close(compiled(self.x), self.y)
        # torch.compile traces the gradient with the rest.
        with self.assertRaisesRegex(Exception, REFUSAL):
            compiled(self.x).sum().backward()


if __name__ == "__main__":
    unittest.main()
