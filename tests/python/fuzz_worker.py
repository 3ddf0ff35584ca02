"""Runs batches of programs of fuzz_calls.py, each batch in a forked process of its own,
so that PyTorch is imported once. Batches come as lines of JSON on stdin; for each, a
line of JSON with what each program came to, and how the process ended. Nothing of
PyTorch's runs here before the fork, which its thread pools would not survive.
"""

import faulthandler
import gc
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import fuzz_steps
import torch._dynamo
import torch._functorch.aot_autograd


def run(programs, report):
    """In the child."""
    for i, source in enumerate(programs):
        report({"started": i})
        before, counts = fuzz_steps.state(), dict(fuzz_steps.COUNTS)
        result = {"ended": i}
        try:
            exec(compile(source, f"<program {i}>", "exec"), {"__name__": "__main__"})
        except fuzz_steps.Spoiled:
            result |= {"spoiled": True}
        except fuzz_steps.Wrong as e:
            result |= {"wrong": e.kind, "text": str(e)}
        except BaseException as e:
            result |= {"wrong": f"uncaught {type(e).__name__}: {e}"[:80], "text": "".join(traceback.format_exception(e))[-3000:]}
        left = fuzz_steps.difference(before, fuzz_steps.state())
        if left and not {"wrong", "spoiled"} & result.keys():
            result |= {"wrong": "state", "text": f"the program left {left}"}
        counts = {key: n - counts.get(key, 0) for key, n in fuzz_steps.COUNTS.items()}
        report(result | {"counts": counts})
        if {"wrong", "spoiled"} & result.keys():  # the next ones might suffer from it
            return


def ends_within(child, pipe, seconds):
    """What the child has written, and its exit status, or None where it hangs."""
    text, deadline, pidfd = b"", time.monotonic() + seconds, os.pidfd_open(child)
    sources = [pipe, pidfd]
    while pidfd in sources:
        ready, _, _ = select.select(sources, [], [], max(0, deadline - time.monotonic()))
        if not ready:
            break
        if pipe in ready:
            more = os.read(pipe, 1 << 16)
            text += more
            if not more:
                sources.remove(pipe)
        elif pidfd in ready:
            sources.remove(pidfd)
    hangs = pidfd in sources
    if hangs:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    os.close(pidfd)
    return text, None if hangs else os.waitstatus_to_exitcode(status)


def batch(request):
    """Returns the reports in the parent, and None in the child."""
    ours, theirs = os.pipe()
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.close(ours)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(errors.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            faulthandler.enable()
            faulthandler.dump_traceback_later(max(1, request["seconds"] - 2))
            if request["plain"]:
                fuzz_steps.rust = fuzz_steps.plain
            run(request["programs"], lambda line: os.write(theirs, json.dumps(line).encode() + b"\n"))
            faulthandler.cancel_dump_traceback_later()
            os.close(theirs)
            return None
        os.close(theirs)
        text, status = ends_within(child, ours, request["seconds"])
        os.close(ours)
        errors.seek(0)
        stderr = errors.read().decode(errors="replace")
    return {"status": status, "reports": [json.loads(line) for line in text.splitlines()], "stderr": stderr}


def main():
    gc.freeze()  # a collection in a child looks at what is new there
    for line in sys.stdin:
        answer = batch(json.loads(line))
        if answer is None:
            return  # the child ends as any interpreter does
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
