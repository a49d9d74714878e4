"""From ResNet to CNN by turning λ
===============================

One step of a damped layer with ρ = 1 is (1 − λ) x + f(x). At λ = 0 it is a residual block, at λ = 1 a layer of a
CNN. This example shows the output of one layer for five values of λ. Then it trains a small network of eight such
layers at each λ, and measures its accuracy on clean and on noisy images.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from dampode import DampedBlock, data, plots, robustness, training
from dampode.damping import Constant

DAMPINGS = (0.0, 0.25, 0.5, 0.75, 1.0)
digits = data.load("digits")
x, y = data.pixels(digits.x_test), digits.y_test

# %%
# One layer
# ---------
#
# ``f`` is a fixed convolution with random weights. Its input is a digit.

torch.manual_seed(1)
f = nn.Conv2d(1, 1, 3, padding=1, bias=False).requires_grad_(False)
image = x[:1]
outputs = [DampedBlock(f, Constant(lam))(image)[0, 0] for lam in DAMPINGS]
assert torch.equal(outputs[0], (image + f(image))[0, 0])
assert torch.equal(outputs[-1], f(image)[0, 0])

# %%
# A network at each λ
# -------------------
#
# The networks differ in λ alone: they have the same initial weights, and they see the same batches.


def network(lam: float) -> nn.Sequential:
    """Eight damped layers between a convolution and a linear layer."""
    torch.manual_seed(0)
    layers = [
        DampedBlock(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)), Constant(lam))
        for _ in range(8)
    ]
    head = (nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), *layers, *head)


noisy = (x + 0.25 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
correct: dict[str, list[float]] = {"clean": [], "with noise": []}
for lam in DAMPINGS:
    model = network(lam)
    training.fit(model, digits, training.Recipe(epochs=8, batch_size=64, lr=0.05), label=f"λ = {lam:g}")
    model.eval()
    correct["clean"].append(robustness.accuracy(model, x, y))
    correct["with noise"].append(robustness.accuracy(model, noisy, y))
    print(f"λ = {lam:4.2f}: clean {correct['clean'][-1]:.3f}, with noise {correct['with noise'][-1]:.3f}")
assert min(correct["clean"]) > 0.6

# %%
# The upper row shows the output of the layer. The lower plot shows the accuracies with 95 % intervals. The intervals
# count the chance in the choice of 360 test images. They do not count the chance in training: each λ was trained
# once.

figure, axes = plt.subplot_mosaic("01234;aaaaa", figsize=(8, 5.2), height_ratios=(1, 1.7), layout="constrained")
limit = max(output.abs().max().item() for output in outputs)
for k, (lam, output) in enumerate(zip(DAMPINGS, outputs, strict=True)):
    axes[str(k)].imshow(output, cmap="coolwarm", vmin=-limit, vmax=limit)
    axes[str(k)].set(title=f"λ = {lam:g}", xticks=[], yticks=[])
axes["0"].set_xlabel("x + f(x)")
axes["4"].set_xlabel("f(x)")
ax = axes["a"]
for name, values in correct.items():
    (line,) = ax.plot(DAMPINGS, [100 * value for value in values], marker="o")
    low, high = plots.wilson(values, len(y))
    ax.vlines(DAMPINGS, 100 * low, 100 * high, color=line.get_color())
    ax.annotate(name, (DAMPINGS[-1], 100 * values[-1]), (10, 0), textcoords="offset points", va="center")
ax.set(xlabel="λ", ylabel="accuracy, %", xlim=(-0.05, 1.2), ylim=(0, 103), xticks=DAMPINGS)
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/from_resnet_to_cnn.png", dpi=150)
