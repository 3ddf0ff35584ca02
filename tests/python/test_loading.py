"""What becomes of a library that cannot be registered."""

import shutil
import sys
import tempfile
import threading
import unittest
from pathlib import Path

import torch

from ops_under_test import LIBRARY, ROOT, ops


class Loading(unittest.TestCase):
    def second(self, folder):
        """The same ops in another file, which clash with those that are there."""
        return shutil.copy(LIBRARY, Path(folder) / "libsecond.so")

    def test_a_namespace_that_is_taken_is_an_exception(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaises(OSError) as raised:
                torch.ops.load_library(self.second(folder))
        self.assertIsInstance(raised.exception.__cause__, RuntimeError)
        self.assertIn('the namespace "tf_test" cannot be registered', str(raised.exception.__cause__))
        self.assertEqual(ops.leaky(torch.ones(1)).tolist(), [1])

    def test_the_same_file_again_is_nothing_new(self):
        torch.ops.load_library(LIBRARY)
        self.assertEqual(ops.leaky(torch.ones(1)).tolist(), [1])

    def test_on_another_thread_nothing_is_raised_elsewhere(self):
        with tempfile.TemporaryDirectory() as folder:
            thread = threading.Thread(target=torch.ops.load_library, args=[self.second(folder)])
            thread.start()
            thread.join()
        self.assertEqual(ops.leaky(torch.ones(1)).tolist(), [1])

    def test_an_error_of_another_librarys_op_inside_a_pass_of_this_one(self):
        """Each library has a copy of the crate, whose errors the other cannot read."""
        sys.path.insert(0, str(ROOT / "examples/python"))
        import digit_ops

        fuzz = torch.ops.tf_fuzz
        x = torch.ones(2, dtype=torch.double, requires_grad=True)
        for how in ["forward through", "forward through, of tch"]:
            with self.subTest(how):
                y = digit_ops.squareplus(x)
                y.sum().backward()
                # Its pass fails in the other library's node, which has lost what it saved.
                self.assertEqual(fuzz.swallow(y, how).tolist(), (y * 3).tolist())
        with self.assertRaisesRegex(RuntimeError, "squareplus|Squareplus"):
            (fuzz.swallow(y, "backward") * 2).sum().backward()


if __name__ == "__main__":
    unittest.main()
