"""Random programs for fuzz_calls.py, as short Python scripts."""

import random

from fuzz_blocks import BLOCKS, MODES, SHAPES, Blocks

RUNS = ["first", "first", "second", "twice", "backward", "backward_elsewhere", "value", "dual", "batched"]
NESTS = ["with_grad", "with_vmap", "with_jvp", "with_jacrev", "with_vjp", "with_jacfwd"]
NESTS += ["with_vmap_of_first", "with_functionalize"]
FAILURES = ["forward err", "forward panic", "backward err", "backward panic"]
INNER_FAILURES = [f"{stage} {how}" for stage in ["forward", "backward"] for how in ["err", "panic", "tch", "tch panic"]]
HOOKS = ["raises", "interrupts", "exits", "collects", "recurses", "returns_junk", "doubles", "runs_a_pass", "fails_inside"]

# Kinds of what goes wrong on purpose, each of which can be left out by name.
KINDS = ["fails", "picky", "swallow", "swallow_through", "hook", "raising_mode", "compiled_passes", "kept", *HOOKS, *BLOCKS]


class Draw(Blocks):
    """Draws one program; `without` names KINDS, ops, and wraps to leave out."""

    def __init__(self, seed, without=()):
        self.rng = random.Random(seed)
        self.without = set(without)
        self.pick = self.rng.choice
        self.counter = 0

    def chance(self, p):
        return self.rng.random() < p

    def allowed(self, *names):
        return not self.without.intersection(names)

    def seed(self):
        return self.rng.randrange(1000)

    # Functions of ops.

    def smooth(self, v, w):
        """An op on values of one shape, with a result that is no larger."""
        r = self.rng
        return self.pick(
            [
                lambda: f"ops.leaky({v}, {self.pick(['0.3', '0.0', '0.99'])})",
                lambda: f"ops.log1pexp({v})",
                lambda: f"ops.intermediate({v})",
                lambda: f"ops.recomputed({v})",
                lambda: f"ops.once({v})",
                lambda: f"ops.same({v})",
                lambda: f"ops.inner_pass({v})",
                lambda: f"ops.state({v}, 1.5, {self.chance(0.5)}).sin()",
                lambda: f"ops.cube({v}.float()).to({v}.dtype).sin()",
                lambda: f"sum(ops.pair({v}, {w})[:2]).sin()",
                lambda: f"ops.pair({v}, {v})[{r.randrange(2)}].sin()",
                lambda: f"ops.affine({v}, {w}, 0.5)",
                lambda: f"ops.affine({v})",
                lambda: f"ops.affine({v}, {w}.sum(), -1.0).cos()",
                lambda: f"ops.weigh([{v}, {w}], [1.0, -2.0])[1].sin()",
                lambda: f"(lambda y: y[0][0] - y[1].sin())(ops.weigh([{v}, {w}, {v}], [0.5, 0.2, 0.1]))",
                lambda: f"ops.places([{v}, None, {w}], [0.5, 1.0, 0.3])",
                lambda: f"ops.halves({v})[{r.randrange(2)}]",
                lambda: f"(lambda y: y[0] - 0.5 * y[1])(ops.halves({v}))",
                lambda: f"({v} * ops.reduce({w}, 'mean', [-1], True)).sin()",
                lambda: f"ops.reduce(torch.stack([{v}, {w}]), 'sum', [0]).sin()",
                lambda: f"ops.product({v}.reshape(-1, 1), {w}.reshape(1, -1)).sum(1).reshape({v}.shape).sin()",
                lambda: f"ops.increment_({v} * 0.5).sin()",
                lambda: f"{v}.sin() * {w}",
                lambda: f"{v}.cos()",
                lambda: f"ops.round_to({v}.detach(), 0.5) * {w}.sin()",
                lambda: f"ops.leaky({v}.expand(2, *{v}.shape), 0.5)[1]",
                lambda: f"ops.log1pexp(torch.stack([{v}, {w}], -1)[..., 0])",
                lambda: f"ops.pair(torch.stack([{v}, {w}])[1], torch._neg_view({w}))[0].sin()",
                lambda: f"ops.{self.pick(['leaky', 'log1pexp', 'recomputed', 'same', 'affine'])}({v}).mul_(0.5)",
                lambda: f"(lambda y: (y[1].mul_(0.5), y[0] * y[1])[1].sin())(ops.{self.pick(['halves(%s)', 'pair(%s, %s)']).replace('%s', v)})",
                lambda: f"(lambda y: (y[..., None].mul_(0.5), y)[1])(ops.{self.pick(['leaky', 'log1pexp', 'affine'])}({v}))",
                lambda: f"InPython.apply({v}, ops)",
                lambda: f"torch.autograd.grad(ops.{self.pick(['leaky', 'recomputed'])}({v}).sum(), {v}, create_graph=True)[0] * {w}.sin()",
                lambda: f"checkpoint(lambda t: ops.recomputed(t).sin(), {v}, use_reentrant={self.chance(0.5)})",
            ]
        )()

    def rough(self, v):
        """A statement that may go wrong."""
        kind = self.pick([k for k in ["fails", "picky", "swallow", "hook", "state", "through"]])
        if kind == "fails" and self.allowed("fails"):
            return f"ops.fails({v}, '{self.pick(FAILURES)}')"
        if kind == "picky" and self.allowed("picky"):
            return f"ops.picky({v}, '{self.pick(FAILURES)}', {self.pick(['1.0', '0.0', '-9.0'])}).sin()"
        if kind == "swallow" and self.allowed("swallow"):
            return f"ops.swallow({v}, '{self.pick(INNER_FAILURES)}').sin()"
        if kind == "through" and self.allowed("swallow_through"):
            v = f"hook({v}, raises, '{self.pick(['tensor', 'node', 'before'])}')" if self.chance(0.5) else v
            return f"ops.swallow({v}, '{self.pick(['forward through', 'forward through tch'])}').sin()"
        if kind == "hook" and self.allowed("hook"):
            return self.hook(v)
        return f"ops.state({v}, 0.5)"

    def hook(self, v):
        hooks = [h for h in HOOKS if self.allowed(h)]
        return f"hook({v}, {self.pick(hooks)}, '{self.pick(['tensor', 'node', 'before', 'after'])}')"

    def function(self, names, rough):
        """The lines of `def f(ops, ...)`."""
        lines, values = [f"def f(ops, {', '.join(names)}):"], list(names)
        for k in range(self.rng.randrange(1, 5)):
            v, w = self.pick(values), self.pick(values)
            risky = self.chance(rough)
            lines.append(f"    y{k} = {self.rough(v) if risky else self.smooth(v, w)}")
            if self.chance(0.1):
                lines.append(self.pick(["    gc.collect()", f"    del {v}" if v not in names else "    pass"]))
                if "del" in lines[-1]:
                    values.remove(v)
            values.append(f"y{k}")
        result = values[-1] if self.chance(0.7) else ", ".join(values[-2:])
        return [*lines, f"    return {result}"]

    # How it is run.

    def wrap(self):
        if not hasattr(self, "heavy"):
            self.heavy = 0
        kind = self.pick(["nest"] * 4 + ["compiled"] * 2 + ["graph", "checkpoint", "context", "saving", "jit", "gc"])
        if kind in ("compiled", "graph") and self.heavy:
            kind = "nest"
        if kind == "nest":
            return self.pick(NESTS)
        if kind == "compiled":
            self.heavy += 1
            backend = self.pick(["aot_eager", "aot_eager", "eager"])
            dynamic = self.pick(["None", "False", "True"])
            return f"compiled('{backend}', dynamic={dynamic}, fullgraph={self.chance(0.3)})"
        if kind == "graph":
            self.heavy += 1
            return f"graph_of('{self.pick(MODES)}')"
        if kind == "checkpoint":
            return f"checkpointed(reentrant={self.chance(0.5)})"
        if kind == "context":
            return f"within({self.pick(['torch.no_grad', 'torch.inference_mode', 'torch.enable_grad', 'Log', 'LogFunctions'])})"
        if kind == "saving":
            return f"saving({self.pick(['lambda t: t.clone()', 'lambda t: t', 'lambda t: t.numpy(), torch.from_numpy', 'raises', 'lambda t: t, raises'])})"
        return "scripted" if kind == "jit" else "collecting"

    def run(self):
        run = self.pick(RUNS)
        kind = self.pick(["plain"] * 6 + ["traced", "traced", "under", "under", "many", "wrapper", "raising", "autocast", "compiled_passes"])
        if kind == "traced":
            return f"traced({self.pick(['value', 'first', 'second'])}, '{self.pick(MODES)}')"
        if kind == "under":
            contexts = ["Log", "LogFunctions", "torch.no_grad", "torch.inference_mode", "torch.autograd.detect_anomaly"]
            contexts += ["torch.autograd.graph.save_on_cpu", "torch.autograd.graph.allow_mutation_on_saved_tensors"]
            return f"under({run}, {self.pick(contexts)})"
        if kind == "compiled_passes" and self.allowed(kind):
            return f"under({run}, compiled_passes)"
        if kind == "many":
            return f"many({run})"
        if kind == "wrapper":
            return f"wrapper_tensors({run})"
        if kind == "raising" and self.allowed("raising_mode"):
            error = self.pick(["Planned", "KeyboardInterrupt", "SystemExit"])
            return f"under({run}, lambda: Raises({self.rng.randrange(4)}, {error}))"
        if kind == "autocast":
            return f"under({run}, lambda: torch.autocast('cpu', torch.bfloat16)), LOOSE"
        return run

    def inputs(self):
        n, shape = self.rng.randrange(1, 4), self.pick(SHAPES)
        dtype = self.pick([""] * 8 + [", torch.float", ", torch.bfloat16"])
        needs = lambda: ", requires_grad=False" if self.chance(0.15) else ""
        return "abc"[:n], ", ".join(f"tensor({shape}, {self.seed()}{dtype}{needs()})" for _ in range(n))

    def compared(self):
        """One function, run in some way with both kinds of ops."""
        names, x = self.inputs()
        run, loose, _ = self.run().partition(", LOOSE")
        wraps = [self.wrap() for _ in range(self.pick([0, 0, 1, 1, 1, 2, 2, 3]))]
        lines = self.function(names, self.pick([0, 0, 0.15, 0.3]))
        near = ", near=6e-2" if loose else ", near=1e-3" if any("cube" in line for line in lines) else ""
        keep = "KEPT.append(same(" if self.chance(0.2) and self.allowed("kept") else "same("
        end = "))" if keep != "same(" else ")"
        return [*lines, f"{keep}f, [{x}], {', '.join([run, *wraps])}{near}{end}"]

    def block(self):
        if self.chance(0.5):
            return self.compared()
        return getattr(self, self.pick([name for name in BLOCKS if self.allowed(name)] or ["compared"]))()

    def program(self):
        blocks = [self.block() for _ in range(self.pick([1, 1, 2, 3]))]
        return "\n".join(["from fuzz_steps import *", *(line for b in blocks for line in b), "alive()", ""])
