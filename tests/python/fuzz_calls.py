"""A fuzzer of calls of registered ops from Python: random programs (fuzz_programs.py) in
processes of their own (fuzz_worker.py), whose ends are looked at.

    python tests/python/fuzz_calls.py [--programs N] [--seed S] [--without KIND,...]
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fuzz_programs import Draw

HERE = Path(__file__).resolve().parent
BATCH = 15  # programs in one process
SECONDS = 60  # that a process may take, and the interpreter's end with it


class Worker:
    """A process that runs batches, one at a time."""

    def __init__(self):
        self.start()

    def start(self):
        environment = os.environ | {"RUST_BACKTRACE": "0", "TORCHDYNAMO_VERBOSE": "0", "TORCH_LOGS": "-all"}
        environment |= {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "fuzz_worker.py")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def run(self, programs, seconds=SECONDS, plain=False):
        """`plain` takes PyTorch's formulas for Rust's ops too."""
        request = json.dumps({"programs": programs, "seconds": seconds, "plain": plain}) + "\n"
        for _ in range(2):
            self.process.stdin.write(request)
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            if answer:
                return Result(**json.loads(answer))
            # It runs no program itself: somebody has ended it.
            status = self.process.wait()
            self.process.stdout.close()
            self.start()
        raise RuntimeError(f"the worker itself ended with {status}, twice")

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@dataclass
class Result:
    """How one process ended."""

    status: int | None
    reports: list
    stderr: str

    def wrong(self):
        """The report of a program that found a broken promise."""
        return next((r for r in self.reports if "wrong" in r), None)

    def kind(self):
        """What went wrong, in a word; None if nothing did."""
        if self.wrong():
            return self.wrong()["wrong"]
        if self.status is None:
            return "hang"
        return None if self.status == 0 else f"exit status {self.status}"

    def last(self):
        """The index of the program that ran last."""
        return max((r.get("started", 0) for r in self.reports), default=0)

    def has_ended(self):
        return any(r.get("ended") == self.last() for r in self.reports)

    def counts(self):
        return sum((Counter(r["counts"]) for r in self.reports if "counts" in r), Counter())

    def text(self):
        wrong = self.wrong()
        if wrong:
            return wrong["text"]
        when = "after the last program" if self.has_ended() else "in the program"
        stderr = "\n".join(line for line in self.stderr.splitlines() if not line.startswith("Extension modules"))
        return f"{self.kind()}, {when}\n{stderr[-2500:]}"


@dataclass
class Failure:
    program: str
    kind: str
    text: str

    def __str__(self):
        lines = "\n".join("    " + line for line in self.program.splitlines())
        return f"{self.kind}: run with PYTHONPATH=tests/python\n\n{lines}\n\n{self.text}\n"


def smaller(items, fails):
    """Leaves out items, more and then fewer at once, while `fails` says that it still
    fails.
    """
    size = max(1, len(items) // 2)
    while True:
        at, changed = 0, False
        while at < len(items):
            fewer = items[:at] + items[at + size :]
            if fewer and fails(fewer):
                items, changed = fewer, True
            else:
                at += size
        if size == 1 and not changed:
            return items
        size = max(1, size // 2)


def smaller_still(lines, fails):
    """Leaves out a few neighbours at once, such as what is left of a function."""
    for size in (2, 3, 4):
        at = 0
        while at + size < len(lines):
            fewer = lines[:at] + lines[at + size :]
            lines, at = (fewer, at) if fails(fewer) else (lines, at + 1)
    return lines


def shrink(worker, programs, result):
    """The failure, in one program with as few lines as will do; None where PyTorch's own
    formulas end the process in the same way.
    """
    kind, seconds = result.kind(), 15 if result.kind() == "hang" else SECONDS
    fails = lambda programs: worker.run(programs, seconds).kind() == kind
    last = programs[result.last()]
    if fails([last]):
        programs = [last]
    else:
        programs = smaller(programs[: result.last() + 1], fails)
    if worker.run(programs, seconds, plain=True).kind() == kind:
        return None
    lines = "".join(programs).splitlines()
    joined = lambda lines: ["\n".join(lines) + "\n"]
    deadline = time.monotonic() + 120
    if fails(joined(lines)):
        in_time = lambda lines: time.monotonic() < deadline and fails(joined(lines))
        lines = smaller_still(smaller(lines, in_time), in_time)
        programs = joined(lines)
    again = worker.run(programs, seconds)
    last = again if again.kind() == kind else result
    note = "" if last is again else "(it does not fail each time)\n"
    return Failure("".join(programs), kind, note + last.text())


@dataclass
class Fuzzer:
    seed: int
    without: tuple = ()
    batch: int = BATCH
    failures: list = field(default_factory=list)
    texts: set = field(default_factory=set)
    counts: Counter = field(default_factory=Counter)

    def run(self, programs, workers=2, most_failures=5, seconds=None):
        """Runs that many programs, fewer where there are enough failures or `seconds` are
        over.
        """
        self.lock = threading.Lock()
        self.end = time.monotonic() + seconds if seconds else None
        self.most_failures = most_failures
        starts = iter(range(0, programs, self.batch))
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(self.work, starts, programs) for _ in range(workers)]:
                done.result()
        return self

    def work(self, starts, programs):
        worker = Worker()
        try:
            while not (self.end and time.monotonic() > self.end) and len(self.failures) < self.most_failures:
                with self.lock:
                    start = next(starts, None)
                if start is None:
                    return
                self.run_batch(worker, [self.draw(i) for i in range(start, min(start + self.batch, programs))])
        finally:
            worker.close()

    def draw(self, i):
        return Draw(f"{self.seed} {i}", self.without).program()

    def run_batch(self, worker, programs):
        while programs:
            result = worker.run(programs)
            with self.lock:
                self.counts += result.counts()
                self.counts["programs"] += sum("ended" in r for r in result.reports)
            rest = programs[result.last() + 1 :]
            if result.kind() is None or result.kind() in self.without:
                programs = rest
                continue
            if result.wrong() and self.is_like_another(result):
                programs = rest
                continue
            failure = shrink(worker, programs, result)
            if failure is None:
                self.counts["programs in which PyTorch itself ends so"] += 1
                programs = rest
                continue
            with self.lock:
                self.failures.append(failure)
                print(failure, flush=True)
                if len(self.failures) >= self.most_failures:
                    return
            programs = rest

    def is_like_another(self, result):
        """Whether the same text was there before, but for its numbers and names."""
        text = re.sub(r"[A-Z]\w+|\d+|\w*'\w*", "", result.text())[:150]
        with self.lock:
            known = text in self.texts
            self.texts.add(text)
            self.counts["failures like others"] += known
        return known

    def reasons(self):
        """What the exceptions said, most frequent first."""
        return "\n".join(f"{n:5} {name}" for name, n in self.counts.most_common() if "reason" in name)

    def summary(self):
        counts = ", ".join(f"{n} {name}" for name, n in sorted(self.counts.items()) if "reason" not in name)
        return f"seed {self.seed}: {counts}, {len(self.failures)} failures"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--programs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--without", default="", help="kinds of programs to leave out, with commas")
    parser.add_argument("--failures", type=int, default=5, help="how many to look for")
    parser.add_argument("--reasons", action="store_true", help="print what the exceptions said")
    parser.add_argument("--print", type=int, help="only print the program of that number")
    options = parser.parse_args()
    fuzzer = Fuzzer(options.seed, tuple(options.without.split(",")))
    if options.print is not None:
        return print(fuzzer.draw(options.print))
    print(f"seed {options.seed}", flush=True)
    fuzzer.run(options.programs, most_failures=options.failures)
    if options.reasons:
        print(fuzzer.reasons())
    print(fuzzer.summary())
    sys.exit(bool(fuzzer.failures))


if __name__ == "__main__":
    main()
