"""Functions of several inputs."""

import torch

from fault import FAULTS, X, A, ROW, op, product, fault


@fault
def transpose_missing(wrong):
    return product(lambda ctx, dy, a, b: (dy @ (b if wrong else b.T), a.T @ dy),
                   f=lambda a, b: a @ b)


@fault
def broadcast_not_summed(wrong):
    def backward(ctx, dy, a, b):
        db = dy * a
        return dy * b, db[0] if wrong else db.sum_to_size(b.shape)
    return product(backward, X, ROW)


@fault
def broadcast_averaged(wrong):
    def backward(ctx, dy, a, b):
        db = (dy * a).sum_to_size(b.shape)
        return dy * b, db * b.numel() / a.numel() if wrong else db
    return product(backward, X, ROW)


@fault
def gradients_swapped(wrong):
    return product(lambda ctx, dy, a, b: (dy * a, dy * b) if wrong else (dy * b, dy * a))


@fault
def repeated_indices_not_added(wrong):
    def backward(ctx, dy):
        x, index = ctx.saved_tensors
        zeros = torch.zeros_like(x)
        add = zeros.index_copy if wrong else zeros.index_add
        return add(0, index, dy), None
    return op(lambda x, index: x[index], backward, (A, torch.tensor([2, 0, 2, 1])))


@fault
def nothing_if_another_needs_nothing(wrong):
    def backward(ctx, dy, a, b):
        idle = wrong and not all(ctx.needs_input_grad)
        return (None, None) if idle else (dy * b, dy * a)
    return product(backward)


@fault
def depends_on_who_asks(wrong):
    def backward(ctx, dy, a, b):
        alone = wrong and not ctx.needs_input_grad[0]
        return dy * b, dy * a * (2 if alone else 1)
    return product(backward)


@fault
def asks_for_the_wrong_position(wrong):
    def backward(ctx, dy, a, b):
        return (dy * b if ctx.needs_input_grad[0] else None,
                dy * a if ctx.needs_input_grad[0 if wrong else 1] else None)
    return product(backward)


def with_jvp(name, bad):
    def make(wrong):
        def setup(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)
        right = lambda a, b, da, db: a * db + da * b
        jvp = lambda ctx, da, db: (bad if wrong else right)(*ctx.saved_tensors, da, db)
        return product(lambda ctx, dy, a, b: (dy * b, dy * a), setup=setup, jvp=jvp, custom=False)
    FAULTS[name] = make


with_jvp("tangent_times_2", lambda a, b, da, db: (a * db + da * b) * 2)
with_jvp("tangent_without_a_term", lambda a, b, da, db: da * b)
with_jvp("tangents_swapped", lambda a, b, da, db: a * da + db * b)
