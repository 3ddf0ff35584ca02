"""A module scripted here, with an op from Rust inside, is trained in a Rust program
(tests/dispatcher/from_python.rs) as it is here."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import numpy
import torch
from torch import nn

from ops_under_test import ROOT, ops

STEPS, RATE = 30, 0.05  # as in from_python.rs


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.second = nn.Linear(8, 1)

    def forward(self, x):
        return self.second(torch.ops.tf_test.leaky(self.first(x), 0.2))


class Plain(Net):
    def forward(self, x):
        return self.second(nn.functional.leaky_relu(self.first(x), 0.2))


def data():
    torch.manual_seed(5)
    x = torch.randn(32, 3, dtype=torch.double)
    return x, (x.prod(1, keepdim=True)).sin()


def trained(net, x, target):
    """By name: outputs, gradients, losses, and the parameters at the end."""
    out = {"y": net(x)}
    loss = lambda: nn.functional.mse_loss(net(x), target)
    loss().backward()
    plain = lambda name: name.replace(".", "_")  # as tch calls variables
    out |= {f"gradient {plain(name)}": p.grad.clone() for name, p in net.named_parameters()}
    adam = torch.optim.Adam(net.parameters(), RATE)
    losses = []
    for _ in range(STEPS):
        adam.zero_grad()
        value = loss()
        value.backward()
        adam.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]
    out |= {plain(name): p for name, p in net.named_parameters()}
    return out | {"losses": torch.tensor(losses, dtype=torch.double)}


def in_rust(folder):
    test = ["cargo", "test", "--quiet", "--test", "dispatcher", "--"]
    chosen = ["--ignored", "--exact", "from_python::trains_as_in_python"]
    environment = os.environ | {"TCH_FUNCTION_SCRIPT": str(folder)}
    run = subprocess.run(test + chosen, cwd=ROOT, env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(run.stdout + run.stderr)
    with numpy.load(folder / "out.npz") as out:
        return {name: torch.from_numpy(out[name]) for name in out}


class TorchScript(unittest.TestCase):
    def assert_same(self, found, expected):
        self.assertEqual(found.keys(), expected.keys())
        for name, value in expected.items():
            with self.subTest(name):
                torch.testing.assert_close(found[name], value.detach(), rtol=1e-9, atol=1e-12)

    def test_a_rust_program_trains_it(self):
        x, target = data()
        net = Net().double()
        plain = Plain().double()
        plain.load_state_dict(net.state_dict())
        script = torch.jit.script(net)
        self.assertIn("ops.tf_test.leaky", script.code)
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            script.save(folder / "module.pt")
            numpy.save(folder / "x.npy", x.numpy())
            numpy.save(folder / "target.npy", target.numpy())
            found = in_rust(folder)
            back = torch.jit.load(folder / "trained.pt")
        self.assert_same(found, trained(plain, x, target))
        self.assert_same(trained(script, x, target), found)
        torch.testing.assert_close(back(x), script(x))

    def test_a_scripted_function_with_every_kind_of_argument(self):
        @torch.jit.script
        def f(x, bias, how: str):
            y, total = torch.ops.tf_test.weigh([x, x + 1], [0.5, 2.0])
            y = torch.ops.tf_test.affine(y[0] + total, bias, scale=2.0)
            return torch.ops.tf_test.reduce(y, how, [0, -1])

        x = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
        bias = torch.randn(4, dtype=torch.double, requires_grad=True)
        expected = (6.0 * x + 4.0 + bias).sum()
        for _ in range(4):
            y = f(x, bias, "sum")
            torch.testing.assert_close(y, expected)
            dx, dbias = torch.autograd.grad(y, [x, bias])
            torch.testing.assert_close(dx, torch.full_like(x, 6.0))
            torch.testing.assert_close(dbias, torch.full_like(bias, 3.0))

    def test_an_error_has_the_name_of_the_op(self):
        @torch.jit.script
        def f(x):
            return torch.ops.tf_test.fails(x, "forward err")

        with self.assertRaisesRegex(RuntimeError, "Fails: forward failed: no forward today"):
            f(torch.ones(2))


if __name__ == "__main__":
    unittest.main()
