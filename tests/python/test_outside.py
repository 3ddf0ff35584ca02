"""Misuse from outside: each case ends in the right number or in an exception, and the process goes on."""

import subprocess
import sys
import unittest
from pathlib import Path

import torch
from torch._dynamo import compiled_autograd
from torch.autograd import forward_ad
from torch.func import functionalize, grad, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from ops_under_test import ops

random = torch.ops.tf_random
fuzz = torch.ops.tf_fuzz
LONGEST = 2000


class LooksOn(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def forward_over_reverse(op, x):
    return jvp(grad(lambda x: op(x).sum()), (x,), (x,))


class Outside(unittest.TestCase):
    def assert_readable(self, error):
        text = str(error)
        self.assertLess(len(text), LONGEST)
        self.assertNotIn("frame #", text)
        self.assertNotIn("please report a bug", text)

    def test_a_swallowed_exception_of_a_hook_is_gone(self):
        for by_tch in [False, True]:
            p = torch.ones(1, requires_grad=True)
            p.register_hook(lambda g: 1 / 0)
            y = random.swallows(torch.ones(2), p * 2, p, by_tch=by_tch)
            self.assertEqual(y.tolist(), [1, 1])
            self.assertEqual([int(n) for n in ["1", "2"]], [1, 2])

    def test_a_swallowed_exception_in_backward_is_gone(self):
        def raises(g):
            raise ValueError("hook")

        for how in ["backward through tch", "backward through"]:
            x, seed = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True) * 2
            seed.register_hook(raises)
            y = fuzz.swallow(x, how)
            (dx,) = torch.autograd.grad(y, x, seed, create_graph=True)
            self.assertEqual(dx.tolist(), [6, 6])

    def test_an_error_of_tch_says_what_python_said(self):
        def raises(g):
            raise ValueError("from a hook")

        p = torch.ones(1, requires_grad=True)
        loss = p * 2
        loss.register_hook(raises)
        for panics in [False, True]:
            with self.assertRaisesRegex(RuntimeError, "ValueError: from a hook"):
                random.passes_on(torch.ones(2), loss, p, panics)

    def test_a_process_ends_after_a_swallowed_exception(self):
        script = f"""
import sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
import ops_under_test
def run():
    for by_tch in [False, True]:
        p = torch.ones(1, requires_grad=True)
        p.register_hook(lambda g: 1 / 0)
        torch.ops.tf_random.swallows(torch.ones(2), p * 2, p, by_tch=by_tch)
thread = threading.Thread(target=run)
thread.start()
thread.join()
run()
print("the end")
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        self.assertEqual((done.returncode, done.stdout.strip()), (0, "the end"), done.stderr)

    def test_the_exception_of_a_hook_comes_back_as_itself(self):
        class Mine(Exception):
            pass

        def raises(g):
            raise Mine("from a hook")

        x = torch.ones(1, requires_grad=True)
        y = x * 2
        y.register_hook(raises)
        with self.assertRaisesRegex(Mine, "from a hook"):
            ops.leaky(y).backward()

    def test_data_under_a_tracer_asks_for_fake(self):
        for panics in [False, True]:
            for dynamic in [False, True]:
                torch._dynamo.reset()
                f = torch.compile(lambda x: random.reads(x, panics), backend="eager", dynamic=dynamic)
                with self.subTest(panics=panics, dynamic=dynamic):
                    with self.assertRaisesRegex(Exception, "implement Function::fake") as raised:
                        f(torch.ones(3, requires_grad=True))
                    self.assertNotIn("frame #", str(raised.exception))
            for mode in ["fake", "symbolic"]:
                with self.assertRaisesRegex(RuntimeError, "implement Function::fake") as raised:
                    make_fx(lambda x: random.reads(x, panics), tracing_mode=mode)(torch.ones(3))
                self.assert_readable(raised.exception)
        self.assertEqual(random.reads(torch.ones(2) * 2).tolist(), [4, 4])

    def test_data_in_backward_under_a_tracer(self):
        for how in ["backward err", "backward panic"]:
            torch._dynamo.reset()
            f = torch.compile(lambda x: fuzz.picky(x, how), backend="aot_eager")
            with self.assertRaisesRegex(Exception, "a backward must not read data") as raised:
                f(torch.ones(3, requires_grad=True)).sum().backward()
            self.assertIn("aten::", str(raised.exception))  # what PyTorch says
            self.assert_readable(raised.exception)

    def test_no_error_shows_frames(self):
        x, deep = torch.ones(2, 2), torch.ones(2, 3, 2)
        calls = [
            lambda: ops.log1pexp(x.to_sparse()),
            lambda: ops._leaky_backward(x, [], [], [], x),
            lambda: vmap(ops.increment_)(x),
            lambda: vmap(ops.once)(x[:0]),
            lambda: ops.increment_(x[:1].expand(2, 2)),
            lambda: make_fx(vmap(vmap(ops.increment_)), tracing_mode="symbolic")(deep),
            lambda: grad(lambda x: ops.increment_(x * 1).sum())(x),
            lambda: forward_over_reverse(ops.intermediate, x),
        ]
        for i, call in enumerate(calls):
            with self.subTest(call=i), self.assertRaises(Exception) as raised:
                call()
            self.assert_readable(raised.exception)

    def test_a_loop_over_a_batch_of_symbolic_size(self):
        x = torch.rand(2, 3, 2)
        for op, expected in [(fuzz.inner_pass, x.cos()), (ops.once, torch.nn.functional.softplus(x))]:
            traced = make_fx(vmap(vmap(op)), tracing_mode="symbolic")(x)
            torch.testing.assert_close(traced(x), expected)

    def test_a_batch_of_gradients(self):
        def recorded(f):
            with LooksOn():
                return f()

        def with_holes(x):
            return fuzz.places([None, x, None, x * x], [1.0, 2.0, 3.0, 4.0])

        def of_halves(x):
            a, b = fuzz.halves(x)
            return a + 2 * b

        for op in [ops.leaky, ops.log1pexp, ops.intermediate, ops.recomputed, ops.once, of_halves, with_holes]:
            for record in [lambda f: f(), recorded]:
                x = torch.tensor([0.3, -0.4, 1.0], requires_grad=True)
                y = record(lambda: op(x))
                seeds = torch.rand(2, 4, 3)
                each = [torch.autograd.grad(y, x, dy, retain_graph=True)[0] for dy in seeds[0]]
                (dx,) = torch.autograd.grad(y, x, seeds[0], is_grads_batched=True, retain_graph=True)
                torch.testing.assert_close(dx, torch.stack(each))
        y = recorded(lambda: ops.intermediate(x))
        seeds = torch.rand(4, 3, requires_grad=True)
        (dx,) = torch.autograd.grad(y, x, seeds, is_grads_batched=True, create_graph=True)
        (again,) = torch.autograd.grad(dx.sum(), seeds)
        torch.testing.assert_close(again, torch.sigmoid(x).detach().expand(4, 3))

    def test_absent_tensors_of_a_list(self):
        def run(x):
            return fuzz.places([x, None, x], [1.0, 2.0, 4.0])

        x = torch.ones(2, requires_grad=True)
        with LooksOn():
            (dx,) = torch.autograd.grad(run(x).sum(), x)
        self.assertEqual(dx.tolist(), [5, 5])
        self.assertEqual(grad(lambda x: run(x).sum())(x).tolist(), [5, 5])
        self.assertEqual(vmap(grad(lambda x: run(x).sum()))(torch.ones(2, 2)).tolist(), [[5, 5]] * 2)
        for dynamic in [False, True]:
            torch._dynamo.reset()
            f = torch.compile(run, backend="aot_eager", dynamic=dynamic)
            (dx,) = torch.autograd.grad(f(x).sum(), x)
            self.assertEqual(dx.tolist(), [5, 5])

    def test_compiled_autograd_is_told_of(self):
        x = torch.ones(2, requires_grad=True)
        with LooksOn():
            watched = ops.leaky(x)
        for y in [ops.leaky(x), watched]:
            with compiled_autograd._enable(torch.compile(backend="eager")):
                with self.assertRaisesRegex(NotImplementedError, "LeakyBackward: compiled autograd") as raised:
                    y.sum().backward(retain_graph=True)
            self.assert_readable(raised.exception)
            y.sum().backward()

    def test_a_pass_inside_of_an_op_that_is_watched(self):
        x = torch.tensor([0.5, -1.0], requires_grad=True)
        dx = (-x.detach().sin()).tolist()
        with LooksOn():
            y = fuzz.inner_pass(x)
        self.assertEqual(torch.autograd.grad(y.sum(), x)[0].tolist(), dx)
        self.assertEqual(grad(lambda x: fuzz.inner_pass(x).sum())(x).tolist(), dx)
        self.assertEqual(vmap(grad(fuzz.inner_pass))(x).tolist(), dx)
        self.assertEqual(functionalize(vmap(fuzz.inner_pass))(x).tolist(), x.cos().tolist())
        f = torch.compile(fuzz.inner_pass, backend="aot_eager")
        self.assertEqual(torch.autograd.grad(f(x).sum(), x)[0].tolist(), dx)

    def test_a_tangent_of_a_watched_op_is_that_of_its_jvp(self):
        x = torch.ones(2, requires_grad=True)
        with forward_ad.dual_level():
            y, back = vjp(lambda x: fuzz.swallow(x, ""), forward_ad.make_dual(x, torch.full((2,), 0.5)))
            self.assertEqual(forward_ad.unpack_dual(y).tangent.tolist(), [1.5, 1.5])
            self.assertEqual(back(torch.ones(2))[0].tolist(), [3, 3])

    def test_an_output_of_a_watched_op_may_be_changed(self):
        # It was a view inside of the op.
        x = torch.rand(2, 3, requires_grad=True)
        with LooksOn():
            y = random.in_one_row(x)
        self.assertFalse(y._is_view())
        y.mul_(2)
        (dx,) = torch.autograd.grad(y.sum(), x)
        self.assertFalse(dx._is_view())
        self.assertEqual(dx.tolist(), [[4] * 3] * 2)

    def test_a_panic_under_dynamic_shapes_aborts_nothing(self):
        for how in ["forward panic", "forward err", "backward panic", "backward err"]:
            torch._dynamo.reset()
            f = torch.compile(lambda x: ops.fails(x, how).sum(), backend="aot_eager", dynamic=True)
            with self.assertRaises(Exception):
                f(torch.ones(3, requires_grad=True)).backward()
            with self.assertRaises(Exception):
                make_fx(lambda x: torch.autograd.grad(ops.fails(x, how).sum(), x)[0], tracing_mode="symbolic")(
                    torch.ones(3, requires_grad=True)
                )

    def test_plans_that_are_none(self):
        big = 2**62
        plans = [[], [0], [0, 1], [0, 1, 1], [0, 1, -1], [0, 1, big], [-1, 1, 0], [9, 1, 0], [0, 1, 1, 1, -8]]
        plans += [[0, 1, 1, 1, code] for code in [7, 8, 16, 2**31, big, 2**63 - 1]]
        plans += [[0, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1], [2, 1, 1, 1], [0, 7, 1, 1, 0]]
        x, dy = torch.ones(3, requires_grad=True), torch.ones(3)

        class Tampers(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                result = func(*args, **(kwargs or {}))
                return (*result[:-1], self.plan) if "_forward" in func.name() else result

        for plan in plans:
            for op, rest in [(ops._leaky_backward, [0.01]), (ops._recomputed_backward, []), (ops._once_backward, [])]:
                for saved in [[], [x], [dy, dy, dy]]:
                    try:
                        op(dy, saved, plan, [True], x.detach(), *rest)
                        op(dy.requires_grad_(), saved, plan, [], x, *rest)
                    except Exception as error:
                        self.assert_readable(error)
                    dy = torch.ones(3)
            mode = Tampers()
            mode.plan = plan
            for op in [ops.leaky, ops.intermediate, ops.recomputed, ops.once]:
                try:
                    with mode:
                        y = op(x)
                    y.sum().backward()
                except Exception as error:
                    self.assert_readable(error)

    def test_a_recomputed_op_draws_the_same_numbers(self):
        x = torch.ones(1000, dtype=torch.double, requires_grad=True)

        def first_and_value(x):
            y = random.recomputed(x)
            (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            return dx, y

        dx, y = first_and_value(x)
        self.assertTrue(torch.equal(dx, y))
        watched = torch._neg_view(-x)  # a key that a mode below autograd must see
        y = random.recomputed(watched)
        (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        self.assertTrue(torch.equal(dx, y))
        f = torch.func.vjp(random.recomputed, x.detach())
        self.assertTrue(torch.equal(f[1](torch.ones_like(x))[0], f[0]))
        torch._dynamo.reset()
        compiled = torch.compile(random.recomputed, backend="aot_eager")
        y = compiled(x)
        (dx,) = torch.autograd.grad(y.sum(), x)
        self.assertTrue(torch.equal(dx, y))
        self.assertGreater(y.sum().item(), 300)
        self.assertLess(y.sum().item(), 700)

    def test_a_tagged_op_is_not_run_twice_by_the_compiler(self):
        self.assertIn(torch.Tag.nondeterministic_seeded, random.dropout.default.tags)
        for inner in [random._dropout_forward, random._dropout_backward]:
            self.assertIn(torch.Tag.nondeterministic_seeded, inner.default.tags)
        self.assertNotIn(torch.Tag.nondeterministic_seeded, random.untagged.default.tags)

        def block(x):
            return random.dropout(x.sin()).cos().sin()

        for backend in ["aot_eager_decomp_partition", "inductor"]:
            torch._dynamo.reset()
            f = torch.compile(lambda x: checkpoint(block, x, use_reentrant=False), backend=backend)
            x = torch.full((1000,), 0.7, requires_grad=True)
            try:
                y = f(x)
            except Exception as error:
                if backend == "inductor" and "compiler" in str(error).lower():
                    continue  # no C++ compiler for Inductor here
                raise
            (dx,) = torch.autograd.grad(y.sum(), x)
            kept = y.detach() != torch.tensor(0.0).cos().sin()
            # Where the mask is 0 the gradient is 0, and nowhere else.
            self.assertTrue(torch.equal(kept, dx != 0))


if __name__ == "__main__":
    unittest.main()
