"""Damp an ImageNet ResNet-50 made of torchvision's own blocks, and keep its weights.

Claims, each asserted below:

- λ = 0 gives the logits of the undamped network to the last bit.
- Damping adds one parameter to each of the 12 blocks that keep the state's shape, and keeps all of torchvision's.
- If λ starts at 1e-3, the logits change by about one percent, so trained weights remain useful for fine-tuning.
- One training step changes every λ and leaves it above 0, if λ has a learning rate of its own. relu has no gradient at
  0, so the first steps must not move a small λ to 0.

Without arguments the weights are random and nothing is downloaded. ``--weights IMAGENET1K_V2`` loads torchvision's.
"""

from dataclasses import dataclass
from typing import Any

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


def main(args: Args) -> None:
    torch.manual_seed(0)
    pretrained = resnet50(weights=args.weights)
    plain = resnet50()
    plain.load_state_dict(pretrained.state_dict())
    images = torch.randn(4, 3, 64, 64)  # like images after torchvision's transforms: mean 0, deviation 1

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

    small = [p for m in damped.modules() if isinstance(m, Damping) for p in m.parameters()]
    rest = [p for p in damped.parameters() if all(p is not q for q in small)]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": small, "lr": 1e-5}]
    optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.9)
    F.cross_entropy(damped.train()(images), torch.arange(4)).backward()
    optimizer.step()
    after = coefficients(damped)
    assert all(0 < b != a for a, b in zip(lams, after, strict=True))
    print(f"after one step λ lies in [{min(after):.6f}, {max(after):.6f}]")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
