"""A Rust op in a model that DistributedDataParallel trains in two processes."""

import datetime
import os
import tempfile
import time
import unittest
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ops_under_test import ops

PROCESSES, BATCH, STEPS = 2, 6, 5
TIMEOUT = datetime.timedelta(seconds=120)


class Network(nn.Module):
    """A linear layer, a Rust op, and Rust's `affine` with a parameter as bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.hidden = nn.Linear(5, 8, dtype=torch.double)
        self.output = nn.Linear(8, 3, bias=False, dtype=torch.double)
        self.bias = nn.Parameter(torch.randn(3, dtype=torch.double))

    def forward(self, x):
        return ops.affine(self.output(ops.leaky(self.hidden(x), 0.1)), self.bias, 2.0)


def batch():
    generator = torch.Generator().manual_seed(11)
    x, y = (torch.randn(PROCESSES * BATCH, n, generator=generator, dtype=torch.double) for n in (5, 3))
    return x, y


def train(network, x, y):
    """The gradients of the first step, and the parameters after the last one."""
    descent = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    first = None
    for _ in range(STEPS):
        descent.zero_grad()
        ops.log1pexp(network(x) - y).mean().backward()
        first = first or [p.grad.clone() for p in network.parameters()]
        descent.step()
    return first, [p.detach().clone() for p in network.parameters()]


def worker(rank, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=PROCESSES, timeout=TIMEOUT)
    x, y = (part[rank * BATCH : (rank + 1) * BATCH] for part in batch())
    torch.save(train(DistributedDataParallel(Network()), x, y), f"{folder}/{rank}.pt")
    dist.barrier()
    # Without gloo's destructors: on a busy machine PyTorch 2.13 aborts in them in one of
    # some ten runs ("terminate called without an active exception"), in a model without
    # Rust ops too.
    os._exit(0)


@unittest.skipUnless(dist.is_gloo_available(), "this PyTorch has no gloo")
class Distributed(unittest.TestCase):
    def train_in_processes(self):
        with tempfile.TemporaryDirectory() as folder:
            context = mp.spawn(worker, args=(folder,), nprocs=PROCESSES, join=False)
            deadline = time.monotonic() + TIMEOUT.total_seconds()
            try:
                # Returns whenever one of them ends.
                while not context.join(max(0, deadline - time.monotonic())):
                    self.assertLess(time.monotonic(), deadline, "the processes hang")
            finally:
                for process in context.processes:
                    process.kill()
            return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(PROCESSES)]

    def test_two_processes_train_as_one_with_the_joined_batch(self):
        gradients, parameters = train(Network(), *batch())
        # The joined mean adds in another order.
        near = {"rtol": 1e-12, "atol": 1e-14}
        start = list(Network().parameters())
        for rank, (found_gradients, found_parameters) in enumerate(self.train_in_processes()):
            with self.subTest(rank=rank):
                torch.testing.assert_close(found_gradients, gradients, **near)
                torch.testing.assert_close(found_parameters, parameters, **near)
        for gradient, p, q in zip(gradients, start, parameters):
            self.assertGreater(gradient.abs().max(), 1e-3)
            self.assertGreater((p - q).abs().max(), 1e-3)


if __name__ == "__main__":
    unittest.main()
