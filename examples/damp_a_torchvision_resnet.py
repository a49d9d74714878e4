"""Damp a torchvision ResNet
=========================

An ImageNet ResNet-50 of torchvision's own blocks gets damping and keeps its weights. The script asserts that

- λ = 0 gives the logits of the undamped network to the last bit,
- damping adds one parameter to each of the 12 blocks that keep the shape of the state, and keeps all of torchvision's,
- a λ that starts at 1e-3 changes the logits by about one percent, so trained weights remain useful for fine-tuning,
- one training step changes every λ and leaves it above 0, if λ has a learning rate of its own.

Without arguments the weights are random and nothing is downloaded. ``--weights IMAGENET1K_V2`` loads torchvision's.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import tyro
from torch import nn
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck

from dampode.damping import Constant, Damping, Learned
from dampode.models import coefficients, damp


@dataclass(frozen=True)
class Args:
    """The source of the weights."""

    weights: str | None = None
    """torchvision's weights to download, such as IMAGENET1K_V2"""


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


args = tyro.cli(Args, description=__doc__)
torch.manual_seed(0)
plain = resnet50(weights=args.weights)
images = torch.randn(4, 3, 64, 64)  # like images after torchvision's transforms: mean 0, deviation 1

# %%
# λ = 0 changes nothing
# ---------------------
#
# ``damp`` returns a copy. It needs the class of the residual blocks, and a function that makes a damping.

# %%
# A small λ keeps the weights useful
# ----------------------------------
#
# ``Learned(1e-3, 1e-3)`` makes a λ that starts at 1e-3 and is trained.

undamped = damp(plain, (Bottleneck,), lambda: Constant(0.0))
with torch.no_grad():
    expected = plain.eval()(images)
    assert torch.equal(undamped.eval()(images), expected)
print("λ = 0: the undamped network's logits, bit for bit")

damped = damp(plain, (Bottleneck,), lambda: Learned(1e-3, 1e-3))
lams = coefficients(damped)
assert len(lams) == 12
assert parameters(damped) == parameters(plain) + 12
print(f"{len(lams)} damped blocks, {parameters(damped):,} parameters ({parameters(plain):,} undamped)")

with torch.no_grad():
    moved = damped.eval()(images) - expected
change = (moved.norm() / expected.norm()).item()
assert 0 < change < 0.05
print(f"λ = {lams[0]:g}: logits move by {100 * change:.2f} %")

# %%
# One training step
# -----------------
#
# relu has no gradient at 0, so the first steps must not move a small λ to 0. λ therefore gets a smaller learning rate.

small = [p for m in damped.modules() if isinstance(m, Damping) for p in m.parameters()]
rest = [p for p in damped.parameters() if all(p is not q for q in small)]
groups: list[dict[str, Any]] = [{"params": rest}, {"params": small, "lr": 1e-5}]
optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.9)
F.cross_entropy(damped.train()(images), torch.arange(4)).backward()
optimizer.step()
after = coefficients(damped)
assert all(0 < b != a for a, b in zip(lams, after, strict=True))
print(f"after one step λ lies in [{min(after):.6f}, {max(after):.6f}]")

# %%
# How far the logits move
# -----------------------
#
# The change of the logits grows with λ. At 1e-3 it is small enough to start fine-tuning from the trained weights.

dampings = [10 ** (k / 2) for k in range(-8, -1)]
changes = []
for value in dampings:
    with torch.no_grad():
        logits = damp(plain, (Bottleneck,), partial(Constant, value)).eval()(images)
    changes.append(100 * ((logits - expected).norm() / expected.norm()).item())
assert changes == sorted(changes)
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.loglog(dampings, changes, "o-")
ax.set(xlabel="λ of every block", ylabel="change of the logits, %", title="ResNet-50 with its weights kept")
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/damp_a_torchvision_resnet.png", dpi=150)
