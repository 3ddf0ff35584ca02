"""Random programs for fuzz_calls.py, as short Python scripts."""

import random

SHAPES = ["(3,)", "(2, 3)", "(2, 3)", "()", "(1,)", "(0,)", "(4, 1)", "(2, 0, 3)", "(2, 1, 2)"]
RUNS = ["first", "first", "second", "twice", "backward", "backward_elsewhere", "value", "dual"]
MODES = ["real", "fake", "symbolic"]
NESTS = ["with_grad", "with_vmap", "with_jvp", "with_jacrev", "with_vjp", "with_jacfwd"]
NESTS += ["with_vmap_of_first", "with_functionalize"]
FAILURES = ["forward err", "forward panic", "backward err", "backward panic"]
INNER_FAILURES = [f"{stage} {how}" for stage in ["forward", "backward"] for how in ["err", "panic", "tch", "tch panic"]]
HOOKS = ["raises", "interrupts", "exits", "collects", "recurses", "returns_junk", "doubles", "runs_a_pass", "fails_inside"]

# Kinds of what goes wrong on purpose, each of which can be left out by name.
KINDS = ["fails", "picky", "swallow", "swallow_through", "hook", "junk_mode", "junk_call", "raising_mode", "exit"]


class Draw:
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
        kind = self.pick(["plain"] * 6 + ["traced", "traced", "under", "under", "many", "wrapper", "raising", "autocast"])
        if kind == "traced":
            return f"traced({self.pick(['value', 'first', 'second'])}, '{self.pick(MODES)}')"
        if kind == "under":
            contexts = ["Log", "LogFunctions", "torch.no_grad", "torch.inference_mode", "torch.autograd.detect_anomaly"]
            contexts += ["torch.autograd.graph.save_on_cpu", "torch.autograd.graph.allow_mutation_on_saved_tensors"]
            return f"under({run}, {self.pick(contexts)})"
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
        keep = "KEPT.append(same(" if self.chance(0.2) and self.allowed("exit") else "same("
        end = "))" if keep != "same(" else ")"
        return [*lines, f"{keep}f, [{x}], {', '.join([run, *wraps])}{near}{end}"]

    def junk_mode(self):
        names, x = self.inputs()
        what, side = self.pick(["plan", "tensors", "needs"]), self.pick(["arguments", "results"])
        lines = self.function(names, 0)
        call = f"{self.pick(['first', 'second', 'backward', 'backward_elsewhere'])}(lambda *x: f(rust, *x), [{x}])"
        return [*lines, f"with tolerated(), Junk({self.seed()}, '{what}', '{side}'):", f"    {call}"]

    def junk_call(self):
        """The inner ops called by hand."""
        lines = [
            f"rng = random.Random({self.seed()})",
            f"x, dy = tensor({self.pick(SHAPES)}, 1, requires_grad={self.chance(0.5)}), None",
            "*y, saved, plan = torch.ops.{0}._{1}_forward({2}, [True] * {3})",
            "dy = [torch.ones_like(t) if isinstance(t, torch.Tensor) else [torch.ones_like(u) for u in t] for t in y]",
        ]
        space, op, args, needs = self.pick(
            [
                ("tf_test", "leaky", "x, 0.1", 1),
                ("tf_test", "intermediate", "x", 1),
                ("tf_test", "recomputed", "x", 1),
                ("tf_test", "once", "x", 1),
                ("tf_test", "log1pexp", "x", 1),
                ("tf_test", "pair", "x, x", 2),
                ("tf_test", "affine", "x, None, 2.0", 1),
                ("tf_test", "weigh", "[x, x], [1.0, 2.0]", 2),
                ("tf_fuzz", "halves", "x", 1),
                ("tf_fuzz", "places", "[x, None, x], [1.0, 2.0, 3.0]", 3),
            ]
        )
        lines[2] = lines[2].format(space, op, args, needs)
        saved = "[x]" if op in ("leaky", "log1pexp") else "[x, x]" if op == "pair" else "saved"
        junk = lambda value, what, p: f"junk_like(rng, {value}, '{what}')" if self.chance(p) else value
        plan, needs = junk("plan", "plan", 0.5), junk(f"[True] * {needs}", "needs", 0.3)
        saved, dys = junk(saved, "tensors", 0.3), junk("dy", "tensors", 0.3)
        body = f"torch.ops.{space}._{op}_backward(*{dys}, {saved}, {plan}, {needs}, {args})"
        through = self.pick(["", "", "vmap", "grad", "make_fx"])
        if through == "vmap":
            body = f"vmap(lambda x: {body})(x)"
        elif through == "grad":
            body = f"grad(lambda x: sum(t.sum() for t in outputs({body})))(x)"
        elif through == "make_fx":
            body = f"make_fx(lambda x: {body}, tracing_mode='{self.pick(MODES)}')(x)"
        return [*lines, "with tolerated():", f"    {body}"]

    def odd_arguments(self):
        x = f"tensor({self.pick(SHAPES)}, {self.seed()})"
        odd = self.pick(
            ["None", "'x'", "1.0", "[]", "[x]", "x.to_sparse()", "x.to('meta')", "x.long()", "x > 0", "x.to(torch.complex64)"]
            + ["x.half()", "torch.quantize_per_tensor(x.detach().float(), 0.1, 0, torch.quint8)", "x.expand(2, *x.shape)"]
            + ["torch.nested.nested_tensor([x.detach().flatten()])", "x.detach().as_strided((2, 2), (0, 0))", "x * float('nan')"]
            + ["torch.nn.Parameter(x.detach())", "x.detach().float().to_mkldnn()", "torch._neg_view(x)", "torch.zeros_like(x)[..., None].mT"]
        )
        call = self.pick(
            ["leaky({0}, 0.1)", "leaky(x, {0})", "log1pexp({0})", "cube({0})", "pair(x, {0})", "pair({0}, x)", "affine(x, {0}, 2.0)"]
            + ["weigh([x, {0}], [1.0, 2.0])", "weigh({0}, [])", "places([{0}, None], [1.0, 2.0])", "increment_({0})", "halves({0})"]
            + ["product({0}, x)", "inner_pass({0})", "reduce({0}, 'sum', [5])", "reduce(x, 'mean', {0})", "state({0})", "picky({0}, 'no')"]
            + ["reduce(x, 'sum', [0, 0, 2**40, -(2**63)])", "leaky(x, float('nan'))", "increment_quietly_({0})", "round_to({0})"]
        ).format(odd)
        return [f"x = {x}", "with tolerated():", f"    y = rust.{call}", "    sum(outputs(y)).sum().backward()"]

    def changed(self):
        """A saved tensor changes between forward and backward."""
        op = self.pick(["leaky(z)", "intermediate(z)", "pair(z, z)", "halves(z)", "state(z)", "recomputed(z)"])
        change = self.pick(["z.add_(1)", "z.detach().zero_()", "z.resize_(50)", "z.set_(tensor((9,), 1))", "z.untyped_storage().resize_(0)"])
        change = self.pick([change, f"outputs(y)[0].detach().{self.pick(['zero_', 'sin_'])}()", "z.data = z.data[:0]"])
        return [
            f"x = tensor({self.pick(SHAPES)}, {self.seed()})",
            "with tolerated():",
            "    z = x * 2",
            f"    y = rust.{op}",
            f"    with torch.no_grad():\n        {change}",
            f"    sum(t.sum() for t in outputs(y)).backward(create_graph={self.chance(0.3)})",
        ]

    def at_exit(self):
        """What is left for the interpreter's end."""
        names, x = self.inputs()
        lines = self.function(names, 0.2)
        call = f"{self.pick(['first', 'second', 'backward'])}(lambda *x: f(rust, *x), [{x}])"
        how = self.pick(["atexit", "kept graph", "cycle", "weak"])
        if how == "atexit":
            return [*lines, f"atexit.register(lambda: outcome(lambda: {call}))"]
        if how == "kept graph":
            return [*lines, f"KEPT.append(outcome(lambda: f(rust, {x})))", "KEPT.append(outcome(lambda: hook(KEPT[-1], raises)))"]
        if how == "cycle":
            return [*lines, f"y = outcome(lambda: f(rust, {x}))", "KEPT.append(outcome(lambda: y.register_hook(lambda g: y)))"]
        return [*lines, f"y = outcome(lambda: f(rust, {x}))", f"weakref.finalize(KEPT.__class__, lambda: outcome(lambda: {call}))"]

    def block(self):
        kinds = ["compared"] * 10 + [k for k in ["junk_mode", "junk_call", "odd_arguments", "changed"] if self.allowed(k)]
        if self.chance(0.15) and self.allowed("exit"):
            kinds = ["at_exit"]
        return getattr(self, self.pick(kinds))()

    def program(self):
        blocks = [self.block() for _ in range(self.pick([1, 1, 2, 3]))]
        return "\n".join(["from fuzz_steps import *", *(line for b in blocks for line in b), "alive()", ""])
