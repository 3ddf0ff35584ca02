"""Trains a network to read handwritten digits twice: with ops written in Rust,
and with the same formulas in plain PyTorch. `make example-python` runs it.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import digit_ops

DIGITS = Path(__file__).resolve().parents[2] / "data/digits/digits.csv"
PIXELS, HIDDEN, CLASSES, INK = 64, 64, 10, 16
SEED, EPOCHS, BATCH, LEARNING_RATE, MOMENTUM, SMOOTHING = 2019, 40, 32, 0.1, 0.9, 0.1

# Between parameters. Both networks train in f64, from equal weights on equal
# batches, and differ by rounding alone: 1e-16 in each op, 3e-15 at the end. A slope
# that is wrong by a millionth makes 1e-6. (Adam would hide it: it divides by the
# size of the gradients.)
TOLERANCE = 1e-12
ACCURACY = 0.97


class PlainSquareplus(nn.Module):
    def forward(self, x):
        return (x + (x * x + 4.0).sqrt()) / 2


def network(activation):
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(PIXELS, HIDDEN), activation, nn.Linear(HIDDEN, CLASSES)).double()


def read():
    """Images from 0 to 1 and labels, in random order: 80 % to train, the rest to test."""
    rows = torch.tensor([[int(field) for field in line.split(",")] for line in DIGITS.open()])
    torch.manual_seed(SEED)
    rows = rows[torch.randperm(len(rows))]
    images, labels = rows[:, :PIXELS].double() / INK, rows[:, PIXELS]
    training = len(rows) * 4 // 5
    return (images[:training], labels[:training]), (images[training:], labels[training:])


def train(model, loss, images, labels):
    descent = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            descent.zero_grad()
            loss(model(images[batch]), labels[batch]).backward()
            descent.step()


def trained(name, activation, loss, training, test):
    """Trains a network of its own; returns it and its accuracy in the test."""
    model = network(activation)
    train(model, loss, *training)
    with torch.no_grad():
        images, labels = training
        value = loss(model(images), labels).item()
        images, labels = test
        accuracy = (model(images).argmax(1) == labels).double().mean().item()
    print(f"{name:<14} {value:>18.12f} {100 * accuracy:>13.1f} %")
    return model, accuracy


def main():
    # More than one are slower on layers this small.
    torch.set_num_threads(1)
    training, test = read()
    print(f"{'ops':<14} {'training loss':>18} {'test accuracy':>15}")
    rust, accuracy = trained(
        "Rust", digit_ops.Squareplus(), digit_ops.CrossEntropy(SMOOTHING), training, test
    )
    plain, plain_accuracy = trained(
        "plain PyTorch", PlainSquareplus(), nn.CrossEntropyLoss(label_smoothing=SMOOTHING), training, test
    )
    pairs = zip(rust.parameters(), plain.parameters())
    difference = max((p - q).abs().max().item() for p, q in pairs)
    print(f"\nThe networks' parameters differ by at most {difference:.1e}.")
    if not difference <= TOLERANCE or accuracy != plain_accuracy:
        sys.exit(f"error: expected equal accuracies and at most {TOLERANCE:.0e}")
    if accuracy < ACCURACY:
        sys.exit(f"error: expected an accuracy of {100 * ACCURACY:.0f} % or more")
    if "--compile" in sys.argv[1:]:
        compare_compiled(training)


def compare_compiled(training):
    """The loss and the gradients of one batch, compiled as a whole and not."""
    images, labels = (part[:BATCH] for part in training)
    model, loss = network(digit_ops.Squareplus()), digit_ops.CrossEntropy(SMOOTHING)

    def step(images, labels):
        return loss(model(images), labels)

    gradients = []
    for run in [step, torch.compile(step, fullgraph=True)]:
        model.zero_grad()
        run(images, labels).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*gradients)
    print("Compiled by torch.compile, the gradients are the same.")


if __name__ == "__main__":
    main()
