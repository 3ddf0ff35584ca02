"""The two ops in PyTorch's operators, which have derivatives of their own."""

import torch


# op: softplus
def softplus(x):
    return torch.maximum(x, torch.zeros_like(x)) + (-x.abs()).exp().log1p()


# op: gate
def gate(a, b, c, scale):
    return (a * b + c).tanh() * (a - c).sigmoid() + scale * (-b * b).exp() * c
