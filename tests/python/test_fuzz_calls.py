"""Random programs of calls of the ops, in processes of their own; fuzz_calls.py says how.
TCH_FUNCTION_CALLS=n runs n programs, with other seeds each time; TCH_FUNCTION_CALLS_SEED
repeats them, and TCH_FUNCTION_CALLS_WITHOUT=kind,... leaves out kinds of programs.
"""

import os
import random
import unittest

from fuzz_calls import Fuzzer


class FuzzCalls(unittest.TestCase):
    def test_random_programs(self):
        asked = os.environ.get("TCH_FUNCTION_CALLS")
        seed = int(os.environ.get("TCH_FUNCTION_CALLS_SEED", random.randrange(1 << 30) if asked else 0))
        without = os.environ.get("TCH_FUNCTION_CALLS_WITHOUT", "").split(",")
        if asked:
            print(f"seed {seed}", flush=True)
        fuzzer = Fuzzer(seed, tuple(without)).run(int(asked or 150))
        if asked:
            print(fuzzer.summary())
        self.assertEqual(len(fuzzer.failures), 0, f"TCH_FUNCTION_CALLS_SEED={seed} repeats them")
        # It compares, and does not only raise.
        self.assertGreater(fuzzer.counts["equal"], fuzzer.counts["programs"] / 5)


if __name__ == "__main__":
    unittest.main()
