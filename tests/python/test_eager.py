"""The ops as they are called, with autograd."""

import unittest

import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from cases import CASES, outputs
from ops_under_test import ops


class Eager(unittest.TestCase):
    def test_values_and_gradients(self):
        for case in CASES:
            with self.subTest(case.name):
                x = case.inputs()
                y, expected = outputs(case.run(*x)), outputs(case.expect(*x))
                self.assertEqual(len(y), len(expected))
                for a, b in zip(y, expected):
                    torch.testing.assert_close(a, b)
                seeds = [torch.randn_like(t) for t in y]
                for a, b in zip(torch.autograd.grad(y, x, seeds), torch.autograd.grad(expected, x, seeds)):
                    torch.testing.assert_close(a, b)

    def test_gradcheck(self):
        for case in CASES:
            if case.dtype == torch.double:
                with self.subTest(case.name):
                    f = lambda *x: tuple(outputs(case.run(*x)))
                    self.assertTrue(gradcheck(f, case.inputs()))
                    if case.second:
                        self.assertTrue(gradgradcheck(f, case.inputs()))

    def test_a_second_derivative_that_is_not_known_is_an_error(self):
        x = torch.randn(3, dtype=torch.double, requires_grad=True)
        for op, text in [(ops.intermediate, "saved tensor 0"), (ops.once, "no second derivative")]:
            (dx,) = torch.autograd.grad(op(x).sum(), x, create_graph=True)
            with self.assertRaisesRegex(RuntimeError, text):
                torch.autograd.grad(dx.sum(), x)

    def test_opcheck(self):
        for case in CASES:
            with self.subTest(case.name):
                x = case.inputs()
                arguments = ([*x], *case.arguments) if case.in_a_list else (*x, *case.arguments)
                torch.library.opcheck(case.op.default, arguments)
        torch.library.opcheck(ops.increment_quietly_.default, (torch.zeros(3),))

    def test_defaults_and_keywords(self):
        x = torch.tensor([-1.0, 2.0])
        self.assertEqual(ops.leaky(x).tolist(), ops.leaky(x, slope=0.01).tolist())
        self.assertEqual(ops.cube(x, fake=False).tolist(), [-1, 8])
        self.assertIn("float slope=0.01", str(ops.leaky.default._schema))
        with self.assertRaisesRegex(RuntimeError, "slope"):
            ops.leaky(x, slop=0.1)
        with self.assertRaisesRegex(RuntimeError, "Expected a value of type 'float'"):
            ops.leaky(x, "0.1")

    def test_err_and_panic_are_exceptions(self):
        x = torch.ones(2, requires_grad=True)
        for how, text in [
            ("forward err", "Fails: forward failed: no forward today"),
            ("forward panic", "Fails: forward panicked: a forward that panics"),
            ("backward err", "Fails: backward failed: no backward today"),
            ("backward panic", "Fails: backward panicked: a backward that panics"),
            ("shape", r"Fails: backward returned shape \[1, 2\] for input 0 of shape \[2\]"),
        ]:
            with self.subTest(how), self.assertRaisesRegex(RuntimeError, text):
                ops.fails(x, how).sum().backward()
        with self.assertRaisesRegex(RuntimeError, "tf_test::leaky: .*slope -1 is negative"):
            ops.leaky(x, -1.0)
        with self.assertRaisesRegex(RuntimeError, "2 tensors for 1 weights"):
            ops.weigh([x, x], [1.0])
        self.assertEqual(ops.leaky(x).tolist(), [1, 1])

    def test_none_is_no_gradient(self):
        x = torch.ones(2, requires_grad=True)
        ops.fails(x, "none").sum().backward()
        self.assertIsNone(x.grad)

    def test_in_place(self):
        x = torch.ones(3, requires_grad=True)
        y = x * 2
        before = y._version
        z = ops.increment_(y)
        self.assertIs(z, y)
        self.assertGreater(y._version, before)
        (z * y).sum().backward()
        self.assertEqual(x.grad.tolist(), [12, 12, 12])
        plain = torch.zeros(2)
        self.assertIsNone(ops.increment_quietly_(plain))
        self.assertEqual(plain.tolist(), [1, 1])
        with self.assertRaisesRegex(RuntimeError, "leaf that requires a gradient"):
            ops.increment_(x)
        self.assertEqual(x.tolist(), [1, 1, 1])
        with self.assertRaisesRegex(RuntimeError, r"Increment: it changes an input .*\(a!\)"):
            ops.increment(plain)
        self.assertEqual(plain.tolist(), [1, 1])

    def test_a_returned_input_is_a_copy(self):
        x = torch.zeros(2)
        ops.same(x).add_(1)
        self.assertEqual(x.tolist(), [0, 0])

    def test_forward_mode(self):
        x, dx = torch.tensor([-2.0, 3.0]), torch.tensor([1.0, 10.0])
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, dx)
            y = forward_ad.unpack_dual(ops.leaky(dual, 0.5))
            self.assertEqual(y.tangent.tolist(), [0.5, 10])
            with self.assertRaisesRegex(RuntimeError, "Same has no jvp"):
                ops.same(dual)

    def test_autocast(self):
        a, b = (torch.randn(3, 3, requires_grad=True) for _ in range(2))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = ops.product(a, b)
        self.assertEqual(y.dtype, torch.bfloat16)
        y.float().sum().backward()
        self.assertEqual(a.grad.dtype, torch.float)
        expected = (torch.ones(3, 3).bfloat16() @ b.detach().bfloat16().T).float()
        torch.testing.assert_close(a.grad, expected)
        self.assertEqual(ops.product(a, b).dtype, torch.float)

    def test_no_grad_and_inference_mode(self):
        x = torch.ones(2, requires_grad=True)
        with torch.no_grad():
            self.assertFalse(ops.log1pexp(x).requires_grad)
        with torch.inference_mode():
            self.assertTrue(ops.log1pexp(x).is_inference())

    def test_meta_tensors(self):
        for case in CASES:
            with self.subTest(case.name):
                x = [t.to("meta") for t in case.inputs(requires_grad=False)]
                real = case.run(*case.inputs(requires_grad=False))
                for a, b in zip(outputs(case.run(*x)), outputs(real)):
                    self.assertEqual((a.device.type, a.shape, a.dtype), ("meta", b.shape, b.dtype))
        with self.assertRaisesRegex(RuntimeError, "has no data.*fake"):
            ops.cube(torch.ones(2, device="meta"), fake=False)

    def test_empty_tensors(self):
        x = torch.ones(0, 3, requires_grad=True)
        ops.log1pexp(x).sum().backward()
        self.assertEqual(x.grad.shape, (0, 3))

    def test_a_view_that_is_conjugated_or_negated_is_resolved(self):
        z = torch.complex(torch.randn(3), torch.randn(3))
        torch.testing.assert_close(ops.cube(z.conj().imag), (-z.imag) ** 3)

    def test_the_library_stays_loaded(self):
        import ctypes
        import _ctypes

        from ops_under_test import LIBRARY

        for _ in range(3):
            _ctypes.dlclose(ctypes.CDLL(str(LIBRARY))._handle)
        _ctypes.dlclose(ctypes.CDLL(str(LIBRARY))._handle)
        self.assertEqual(ops.leaky(torch.ones(1)).tolist(), [1])


if __name__ == "__main__":
    unittest.main()
