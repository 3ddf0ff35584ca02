"""What kernels make lies in memory that is used again; it must behave as any
other tensor's.
"""

import copy
import io
import os
import signal
import threading
import unittest

import torch
from torch.nn.functional import softplus
from torch.utils import dlpack

from ops_under_test import ops


def through_file(y):
    file = io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    return torch.load(file)


def swapped(y):
    other = torch.zeros(2)
    torch.utils.swap_tensors(y, other)
    return other


def with_data_of(y):
    other = torch.zeros(2)
    other.data = y
    return other


def with_storage_resized(y):
    bytes = y.untyped_storage().nbytes()
    value = y.clone()
    y.untyped_storage().resize_(0)
    y.untyped_storage().resize_(bytes)
    return y.copy_(value)


WAYS = {
    "numpy": lambda y: torch.from_numpy(y.numpy()),
    "share_memory_": lambda y: y.share_memory_(),
    "save and load": through_file,
    "DLPack": lambda y: dlpack.from_dlpack(dlpack.to_dlpack(y)),
    "deepcopy": copy.deepcopy,
    "swap_tensors": swapped,
    "data": with_data_of,
    "set_": lambda y: torch.zeros(2).set_(y),
    "the storage alone": lambda y: torch.tensor([]).set_(y.untyped_storage(), 0, y.shape),
    "a storage of another size": with_storage_resized,
    "copy on write": lambda y: torch._lazy_clone(y).add_(1).sub_(1),
    "a parameter": lambda y: torch.nn.Parameter(y).detach(),
}


class Memory(unittest.TestCase):
    def test_results_live_on_in_every_form(self):
        for n in (0, 3, 1000, 100_000, (1 << 20) + 7):
            x = torch.randn(n)
            for name, way in WAYS.items():
                with self.subTest(name, n=n):
                    y = way(ops.log1pexp(x))
                    ops.log1pexp(x * 2)  # must not find its memory
                    torch.testing.assert_close(y, softplus(x))

    def test_the_profiler_is_told(self):
        for n in (1000, 100_000, 1 << 20):
            x = torch.randn(n)
            with torch.profiler.profile(profile_memory=True) as profile:
                y = ops.log1pexp(x)
            of_op = [e for e in profile.key_averages() if "log1pexp" in e.key]
            self.assertEqual(sum(e.self_cpu_memory_usage for e in of_op), y.nbytes)

    def test_forked_while_another_thread_takes_and_gives_memory(self):
        x = torch.randn(1 << 20)
        done = threading.Event()

        def work():
            while not done.is_set():
                ops.log1pexp(x)
                torch.ops.tf_formula.empty_cache(x)

        def fork():
            child = os.fork()
            if child == 0:
                signal.alarm(60)  # one that hangs fails
                torch.ops.tf_formula.empty_cache(x)
                ops.log1pexp(x)
                ops.log1pexp(x)
                os._exit(0)
            return os.waitpid(child, 0)[1]

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a forked process has no others
        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(50):
                self.assertEqual(fork(), 0)
        finally:
            done.set()
            thread.join()
            torch.set_num_threads(threads)


if __name__ == "__main__":
    unittest.main()
