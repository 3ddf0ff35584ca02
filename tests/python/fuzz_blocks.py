"""Blocks of fuzz_calls.py's programs in which nothing is compared: junk, odd arguments,
tensors that change, and things left for the interpreter's end.
"""

SHAPES = ["(3,)", "(2, 3)", "(2, 3)", "()", "(1,)", "(0,)", "(4, 1)", "(2, 0, 3)", "(2, 1, 2)"]
MODES = ["real", "fake", "symbolic"]
BLOCKS = ["junk_mode", "junk_call", "odd_arguments", "changed", "at_exit"]
BLOCKS += ["junk_saved", "node_call", "deep", "interrupted", "elsewhere"]


class Blocks:
    def some_run(self, rough=0.0):
        """The lines of a function, and a call that runs it with Rust's ops."""
        names, x = self.inputs()
        run = self.pick(["first", "second", "backward", "twice", "backward_elsewhere"])
        return self.function(names, rough), f"{run}(lambda *x: f(rust, *x), [{x}])"

    def junk_mode(self):
        what, side = self.pick(["plan", "tensors", "needs"]), self.pick(["arguments", "results"])
        lines, call = self.some_run()
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
        change = self.pick(["z.add_(1)", "z.detach().zero_()", "z.resize_(50)", "z.set_(tensor((9,), 1))"])
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

    def junk_saved(self):
        """Hooks of saved tensors that give back something else."""
        lines, call = self.some_run()
        unpack = self.pick(["t.new_ones(7)", "t.float()", "t.long()", "None", "t.to('meta')", "t[None]", "t.detach().requires_grad_()"])
        return [*lines, f"with tolerated(), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: {unpack}):", f"    {call}"]

    def node_call(self):
        """A node looked at and called by hand."""
        names, x = self.inputs()
        lines = self.function(names, 0)
        arguments = self.pick(["*dy", "None", "*dy, *dy", "", "*junk_like(rng, dy, 'tensors')", "'x'", "*[None] * len(dy)"])
        return [
            *lines,
            f"rng = random.Random({self.seed()})",
            "with tolerated():",
            f"    y = outputs(f(rust, {x}))",
            "    node = y[-1].grad_fn",
            "    while node is not None:",
            "        repr((node, node.name(), node.metadata, node.next_functions))",
            "        dy = [torch.ones(m.shape, dtype=m.dtype) for m in node._input_metadata]",
            f"        for _ in range({self.pick([1, 1, 2])}):",
            f"            outcome(lambda: node({arguments}))",
            "        node = next((n for n, _ in node.next_functions if n is not None), None)",
        ]

    def deep(self):
        """A long chain of nodes, freed at once."""
        step = self.pick(["leaky(y, 0.9)", "affine(y)", "same(y)", "halves(y)[0]", "recomputed(y)", "inner_pass(y)"])
        end = self.pick(["y.backward()", "del y", "KEPT.append(y)", "torch.autograd.grad(y, x, create_graph=True)"])
        return [
            "x = y = tensor((), 1)",
            f"for _ in range({self.pick([300, 3000, 20000])}):",
            f"    y = rust.{step}",
            "with tolerated():",
            f"    {end}",
        ]

    def interrupted(self):
        """A signal's handler raises somewhere inside."""
        lines, call = self.some_run(0.1)
        return [
            *lines,
            "signal.signal(signal.SIGALRM, raises)",
            "for i in range(20):",
            "    with tolerated():",
            "        try:",
            "            signal.setitimer(signal.ITIMER_REAL, 1e-4 * (i + 1))",
            f"            {call}",
            "        finally:",
            "            outcome(lambda: signal.setitimer(signal.ITIMER_REAL, 0))",
        ]

    def elsewhere(self):
        """Under another default device or dtype, or with a graph that moves between threads."""
        lines, call = self.some_run(0.1)
        contexts = ["torch.device('meta')", "FakeTensorMode()", "FakeTensorMode(allow_non_fake_inputs=True)"]
        contexts += ["torch.autograd.set_multithreading_enabled(False)", "torch.profiler.profile()"]
        contexts += ["compiled_passes()"] if self.allowed("compiled_passes") else []
        context = self.pick(contexts)
        return [*lines, f"with tolerated(), {context}:", f"    {call}"]
