"""torch.compile and torch.export."""

import subprocess
import sys
import unittest
from pathlib import Path

import torch
from torch.func import grad, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cases import CASES, outputs
from ops_under_test import ops


def values_and_gradients(f, x):
    y = outputs(f(*x))
    seeds = [torch.ones_like(t) * (i + 1) for i, t in enumerate(y)]
    return [t.detach() for t in y] + list(torch.autograd.grad(y, x, seeds))


class Compile(unittest.TestCase):
    def setUp(self):
        torch._dynamo.reset()

    def check(self, backend, cases, dynamic):
        for case in cases:
            with self.subTest(f"{case.name} {backend} {dynamic}"):
                torch._dynamo.reset()
                f = lambda *x: [2 * y for y in outputs(case.run(*x))]
                compiled = torch.compile(f, fullgraph=True, backend=backend, dynamic=dynamic)
                for x in [case.inputs(), [t.detach()[:2].clone().requires_grad_() for t in case.inputs()]]:
                    for a, b in zip(values_and_gradients(compiled, x), values_and_gradients(f, x)):
                        torch.testing.assert_close(a, b)
                with torch.no_grad():
                    x = case.inputs(requires_grad=False)
                    for a, b in zip(compiled(*x), f(*x)):
                        torch.testing.assert_close(a, b)

    def test_aot_eager(self):
        broadcasts = lambda case: case.name == "affine" and len(case.shapes) == 2
        cases = [case for case in CASES if not broadcasts(case)]
        self.check("aot_eager", cases, None)
        self.check("aot_eager", cases, True)

    def test_inductor(self):
        self.check("inductor", [case for case in CASES if case.name in ["log1pexp", "cube", "pair", "weigh"]], True)

    def test_sizes_to_come_stay_open(self):
        count = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        f = torch.compile(lambda x: ops.leaky(x * 2), fullgraph=True, backend=count, dynamic=True)
        for n in [3, 4, 5]:
            x = torch.randn(n, requires_grad=True)
            f(x).sum().backward()
            torch.testing.assert_close(x.grad, torch.where(x > 0, 2.0, 0.02))
        self.assertEqual(count.frame_count, 1)

    def test_in_place_without_gradient(self):
        def f(x):
            y = x * 2
            ops.increment_quietly_(y)
            return y

        f = torch.compile(f, fullgraph=True, backend="aot_eager")
        self.assertEqual(f(torch.ones(2)).tolist(), [3, 3])
        with self.assertRaisesRegex(Exception, "changes an argument in place"):
            f(torch.ones(2, requires_grad=True))

    def test_autocast(self):
        a, b = (torch.randn(3, 3, requires_grad=True) for _ in range(2))
        f = torch.compile(ops.product, fullgraph=True, backend="aot_eager")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = f(a, b)
        self.assertEqual(y.dtype, torch.bfloat16)
        y.float().sum().backward()
        self.assertEqual(a.grad.dtype, torch.float)

    def test_a_loop_over_the_data_without_fake_says_what_to_write(self):
        f = torch.compile(lambda x: ops.cube(x, fake=False), fullgraph=True, backend="aot_eager")
        with self.assertRaisesRegex(Exception, "Function::fake"):
            f(torch.ones(2))

    def test_transformations_inside(self):
        x = torch.randn(4, 3)
        for op, reference in [(ops.leaky, F.leaky_relu), (ops.log1pexp, F.softplus), (ops.intermediate, F.softplus)]:
            for make in [
                lambda op: lambda x: vmap(op)(x),
                lambda op: lambda x: grad(lambda x: op(x).sin().sum())(x),
                lambda op: lambda x: vmap(grad(lambda x: op(x).sin().sum()))(x),
                lambda op: lambda x: checkpoint(lambda x: op(x).sin(), x, use_reentrant=False),
            ]:
                torch._dynamo.reset()
                f = torch.compile(make(op), fullgraph=True, backend="aot_eager")
                with self.subTest(str(op)):
                    torch.testing.assert_close(f(x), make(reference)(x))

    def test_a_forward_that_the_graph_leaves_out(self):
        script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from ops_under_test import ops
# In a process that has not run its forward yet.
f = torch.compile(lambda x: torch.func.vjp(lambda x: ops.leaky(x, 0.5), x)[1](torch.ones(2))[0], backend="aot_eager")
print(f(torch.tensor([1.0, -1.0])).tolist())
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.stdout.strip(), "[1.0, 0.5]", done.stderr)

    def test_a_plan_of_another_build_is_refused(self):
        x = torch.ones(2)
        y, saved, plan = ops._leaky_forward(x, 0.1, [True])
        backward = lambda plan: ops._leaky_backward(torch.ones(2), [x], plan, [True], x, 0.1)
        self.assertEqual(backward(plan).tolist(), [1, 1])
        with self.assertRaisesRegex(RuntimeError, "empty PyTorch's compile cache"):
            backward(plan[:-1] + [2])

    def test_export(self):
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = torch.nn.Linear(4, 3)

            def forward(self, x):
                return ops.leaky(self.linear(x), 0.1)

        net = Net()
        batch = torch.export.Dim("batch")
        program = torch.export.export(net, (torch.randn(2, 4),), dynamic_shapes=({0: batch},))
        self.assertIn("torch.ops.tf_test.leaky.default", str(program.graph))
        x = torch.randn(7, 4)
        torch.testing.assert_close(program.module()(x), net(x))


if __name__ == "__main__":
    unittest.main()
