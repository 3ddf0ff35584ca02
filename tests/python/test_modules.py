"""Modules that use a Rust op, in everything that Python does with modules."""

import copy
import ctypes
import io
import pickle
import subprocess
import sys
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from ops_under_test import ops

THREADS = 8


class Leaky(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return ops.leaky(x, self.slope) * self.scale


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), Leaky(0.2), nn.Linear(6, 2))


def run(model):
    """The output and the gradients at a fixed input."""
    x = torch.linspace(-2, 2, 12).reshape(3, 4)
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), list(model.parameters()))]


class Copies(unittest.TestCase):
    def setUp(self):
        self.model = network()
        self.expected = run(self.model)

    def assert_same_but_apart(self, model):
        torch.testing.assert_close(run(model), self.expected, rtol=0, atol=0)
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        torch.testing.assert_close(run(self.model), self.expected, rtol=0, atol=0)

    def test_deepcopy(self):
        self.assert_same_but_apart(copy.deepcopy(self.model))

    def test_pickle(self):
        self.assert_same_but_apart(pickle.loads(pickle.dumps(self.model)))

    def test_state_dict(self):
        other = network()
        with torch.no_grad():
            for p in other.parameters():
                p.fill_(7.0)
        file = io.BytesIO()
        torch.save(self.model.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file))
        self.assert_same_but_apart(other)

    def test_a_leaf_behind_an_op_is_copied_and_an_output_is_refused(self):
        x = torch.ones(2, requires_grad=True)
        self.assertTrue(copy.deepcopy(x).requires_grad)
        with self.assertRaisesRegex(RuntimeError, "deepcopy"):
            copy.deepcopy(ops.leaky(x))


class Checkpoints(unittest.TestCase):
    def test_the_gradients_of_a_forward_that_runs_again(self):
        for use_reentrant in (True, False):
            with self.subTest(use_reentrant=use_reentrant):
                model = network()
                expected = run(model)
                model.zero_grad()
                x = torch.linspace(-2, 2, 12).reshape(3, 4).requires_grad_()
                y = checkpoint(model, x, use_reentrant=use_reentrant)
                y.square().sum().backward()
                found = [y.detach(), *(p.grad for p in model.parameters())]
                torch.testing.assert_close(found, expected)

    def test_an_exception_of_a_hook_on_saved_tensors_comes_back_as_it_is(self):
        class Mine(Exception):
            pass

        def refuse(t):
            raise Mine("not this one")

        x = torch.ones(2, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(refuse, lambda t: t):
            for op in (ops.leaky, ops.recomputed):
                with self.assertRaisesRegex(Mine, "not this one"):
                    op(x)
        self.assertEqual(ops.leaky(x).tolist(), [1, 1])


class Rows(Dataset):
    """Row i went through an op, and comes with its gradient."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        x = torch.tensor([-1.0, i + 1.0], requires_grad=True)
        y = ops.leaky(x, 0.5)
        (dx,) = torch.autograd.grad(y.square().sum(), x)
        return y.detach(), dx


class Failing(Rows):
    def __getitem__(self, i):
        return ops.fails(torch.ones(1), "forward err")


class Workers(unittest.TestCase):
    def check(self, method):
        # The parent has used the op and libtorch's threads before it forks.
        ops.leaky(torch.randn(100_000, requires_grad=True)).sum().backward()
        loader = DataLoader(Rows(), batch_size=3, num_workers=2, multiprocessing_context=method, timeout=120)
        found = [torch.cat(part) for part in zip(*loader)]
        i = torch.arange(1.0, 13.0)
        y = torch.stack([torch.full_like(i, -0.5), i], 1)
        dx = torch.stack([torch.full_like(i, -0.5), 2 * i], 1)
        torch.testing.assert_close(found, [y, dx])

    def test_forked(self):
        # PyTorch allows no autograd in the fork of a process whose engine has
        # started threads, as other tests let it do.
        code = "import test_modules; test_modules.Workers().check('fork')"
        subprocess.run([sys.executable, "-B", "-c", code], cwd=Path(__file__).parent, check=True)

    def test_spawned(self):
        self.check("spawn")

    def test_an_error_in_a_worker_comes_back(self):
        loader = DataLoader(Failing(), num_workers=2, multiprocessing_context="fork", timeout=120)
        with self.assertRaisesRegex(RuntimeError, "Fails: forward failed: no forward today"):
            list(loader)


class Ticks:
    """A thread that counts whenever it is given the GIL."""

    def __enter__(self):
        self.count, self.stopped = 0, False
        self.interval = sys.getswitchinterval()
        # Nobody is asked for the GIL: a thread has it until it gives it back.
        sys.setswitchinterval(3600)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped = True
        self.thread.join()
        sys.setswitchinterval(self.interval)

    def run(self):
        while not self.stopped:
            self.count += 1
            time.sleep(0)  # gives it back

    def during(self, call):
        before = self.count
        call()
        return self.count - before


class Threads(unittest.TestCase):
    def test_python_runs_while_rust_runs(self):
        x = torch.ones(1)
        # ctypes keeps the GIL for what it calls through a PyDLL.
        usleep = ctypes.PyDLL(None).usleep
        with Ticks() as ticks:
            held = [ticks.during(lambda: usleep(50_000)) for _ in range(3)]
            # On a busy machine the other thread may not get a processor each time.
            released = any(ticks.during(lambda: ops.sleep(x)) for _ in range(100))
        self.assertEqual(held, [0, 0, 0])
        self.assertTrue(released)

    def test_gradients_from_several_threads(self):
        weight = torch.linspace(-1, 1, 50, dtype=torch.double)

        def gradient(seed):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(50, generator=generator, dtype=torch.double, requires_grad=True)
            found = []
            for _ in range(20):
                y = ops.log1pexp(ops.leaky(x, 0.1)) * weight
                found.append(torch.autograd.grad(y.sum(), x)[0])
            a = x.detach().clone().requires_grad_()
            y = nn.functional.softplus(nn.functional.leaky_relu(a, 0.1)) * weight
            return found, torch.autograd.grad(y.sum(), a)[0]

        with ThreadPoolExecutor(THREADS) as pool:
            for found, expected in pool.map(gradient, range(THREADS)):
                for dx in found:
                    torch.testing.assert_close(dx, expected)

    def test_one_leaf_of_several_threads(self):
        """Every thread adds to the gradient of the same leaf."""
        x = torch.tensor([-2.0, 3.0], requires_grad=True)
        shared = ops.leaky(x, 0.5)

        def backward(_):
            for _ in range(20):
                (shared * 2.0).sum().backward(retain_graph=True)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(backward, range(THREADS)))
        times = 20 * THREADS * 2.0
        torch.testing.assert_close(x.grad, torch.tensor([0.5 * times, times]))

    def test_hooks_in_python_between_ops_in_several_threads(self):
        def gradient(_):
            x = torch.tensor([-2.0, 3.0], requires_grad=True)
            y = ops.leaky(x, 0.5)
            y.register_hook(lambda dy: dy * 10)
            ops.leaky(y, 0.5).sum().backward()
            return x.grad

        with ThreadPoolExecutor(THREADS) as pool:
            for dx in pool.map(gradient, range(10 * THREADS)):
                torch.testing.assert_close(dx, torch.tensor([2.5, 10.0]))

    def test_an_error_in_a_thread_is_that_threads(self):
        def call(i):
            x = torch.ones(2, requires_grad=True)
            ops.fails(x, "backward err" if i % 2 else "").sum().backward()
            return x.grad

        with ThreadPoolExecutor(THREADS) as pool:
            for i, future in enumerate([pool.submit(call, i) for i in range(2 * THREADS)]):
                if i % 2:
                    with self.assertRaisesRegex(RuntimeError, "Fails: .*no backward today"):
                        future.result()
                else:
                    torch.testing.assert_close(future.result(), torch.ones(2))


if __name__ == "__main__":
    unittest.main()
