"""Compares the ops in JAX with libtorch's derivatives, and says what works.

    python run_jax.py REFERENCE    # what run_torch.py wrote
"""

import sys

import jax

import jax_custom
import jax_plain

jax.config.update("jax_enable_x64", True)
jnp = jax.numpy
SCALE = 0.7


def points():
    i = jnp.arange(13.0)
    return (i - 6.2) * 0.5, (i * 5 % 13 - 6) * 0.4, (i * 7 % 13 - 6) * 0.3


def ops(way):
    return [("softplus", way.softplus, 1), ("gate", lambda a, b, c: way.gate(a, b, c, SCALE), 3)]


def derivatives(op, x):
    """As run_torch.py: the value, the gradients twice, and those of a sum of the gradients."""
    seed = jnp.linspace(0.5, 1.5, x[0].size).astype(x[0].dtype)
    n = tuple(range(len(x)))

    def first(*x):
        return jax.grad(lambda *x: (seed * op(*x)).sum(), n)(*x)

    def squares(*x):
        return sum((i + 1) * (dx * dx).sum() for i, dx in enumerate(first(*x)))

    return [op(*x), *first(*x), *jax.jit(first)(*x), *jax.grad(squares, n)(*x)]


def close(found, expected, **tolerance):
    tolerance = {"rtol": 1e-7, "atol": 1e-10} | tolerance
    for one, other in zip(found, expected, strict=True):
        assert jnp.allclose(one.astype(float), other.astype(float), **tolerance), (one, other)


def first_and_second(op, x, reference):
    close([jnp.concatenate(derivatives(op, x))], [reference])


def broadcasting(op, x, reference):
    x = [t[: 13 - 6 * i].reshape(-1, *[1] * i) for i, t in enumerate(x)]
    shapes = [dx.shape for dx in jax.grad(lambda *x: op(*x).sum(), tuple(range(len(x))))(*x)]
    assert shapes == [t.shape for t in x]


def forward_mode(op, x, reference):
    dx = [jnp.cos(t) for t in x]
    tangent = jax.jvp(op, x, dx)[1]
    ones = jax.vmap(jax.grad(op, tuple(range(len(x)))))(*x)
    close([tangent], [sum(d * s for d, s in zip(dx, ones))])


def vmap(op, x, reference):
    close([jax.vmap(op)(*x)], [reference[:13]])


def export(op, x, reference):
    program = jax.export.export(jax.jit(op))(*[jax.ShapeDtypeStruct(t.shape, t.dtype) for t in x])
    close([program.call(*x)], [reference[:13]])


def other_dtypes(op, x, reference):
    for kind in "float32", "float16", "bfloat16":
        found = derivatives(op, [t.astype(kind) for t in x])
        assert all(t.dtype == kind for t in found)
        unit = float(jnp.finfo(kind).eps)
        exact = derivatives(op, [t.astype(kind).astype(float) for t in x])
        n = 1 + 2 * len(x)
        close(found[:n], exact[:n], atol=16 * unit, rtol=8 * unit)


def small_slope(op, x, reference):
    """As run_torch.py."""
    if len(x) == 3:
        found = float(jax.grad(op, 1)(*map(jnp.float32, (4.0, 2.5, 0.0))))
        assert abs(found / 3.23853e-8 - 1) < 1e-4, found


def one_kernel(op, x, reference):
    """What XLA makes of the gradients: the number of instructions of the compiled program."""
    gradients = jax.jit(jax.grad(lambda *x: op(*x).sum(), tuple(range(len(x)))))
    entry = gradients.lower(*x).compile().as_text().split("ENTRY")[1]
    print("   ", entry.count("fusion("), "fusions")


TESTS = [
    first_and_second, broadcasting, forward_mode, vmap, export, other_dtypes, small_slope, one_kernel,
]  # fmt: skip


def main():
    lines = [line.split() for line in open(sys.argv[1])]
    references = {name: jnp.array([float(number) for number in rest]) for name, *rest in lines}
    for way, module in {"plain": jax_plain, "custom_jvp": jax_custom}.items():
        for name, op, n in ops(module):
            for test in TESTS:
                try:
                    test(op, list(points()[:n]), references[name])
                    result = "ok"
                except Exception as error:
                    result = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:150]}"
                print(f"{way:11} {name:9} {test.__name__:17} {result}", flush=True)


if __name__ == "__main__":
    main()
