"""The paper's networks written out plainly, one formula a line, and the means to give two networks the same weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAVES = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
STD = torch.tensor([0.2023, 0.1994, 0.2010]).view(3, 1, 1)


def conv(c_in: int, c_out: int, k: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False)


class PreActBlock(nn.Module):
    """Pre-activation basic block or bottleneck; lam is None where the authors' code does not damp."""

    def __init__(self, c_in: int, mid: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = 4 * mid if bottleneck else mid
        self.bn1 = nn.BatchNorm2d(c_in)
        if bottleneck:
            self.conv1, self.bn2 = conv(c_in, mid, 1), nn.BatchNorm2d(mid)
            self.conv2, self.bn3 = conv(mid, mid, 3, stride), nn.BatchNorm2d(mid)
            self.conv3 = conv(mid, out, 1)
        else:
            self.conv1, self.bn2 = conv(c_in, mid, 3, stride), nn.BatchNorm2d(mid)
            self.conv2 = conv(mid, out, 3)
        self.bottleneck = bottleneck
        self.projects = c_in != out or stride != 1
        if self.projects:
            self.bn_s, self.conv_s = nn.BatchNorm2d(c_in), conv(c_in, out, 1, stride)

    def forward(self, x: Tensor, lam: Tensor | None, lambda_form: bool) -> Tensor:
        f = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        if self.bottleneck:
            f = self.conv3(F.relu(self.bn3(f)))
        if self.projects:
            return self.conv_s(F.relu(self.bn_s(x))) + f
        if lam is None:
            return x + f
        return (1 - lam) * x + (1 + lam) * f if lambda_form else (1 - lam) * x + f


class PlainPreResNet(nn.Module):
    def __init__(self, n: int, width: int, classes: int, bottleneck: bool, lambda_form: bool) -> None:
        super().__init__()
        self.lambda_form = lambda_form
        self.stem = conv(3, width, 3)
        self.blocks = nn.ModuleList()
        c_in = width
        for mid, first_stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            for i in range(n):
                self.blocks.append(PreActBlock(c_in, mid, first_stride if i == 0 else 1, bottleneck))
                c_in = 4 * mid if bottleneck else mid
        self.n = n
        self.bn = nn.BatchNorm2d(c_in)
        self.fc = nn.Linear(c_in, classes)

    def forward(self, x: Tensor, lams: list[Tensor]) -> Tensor:
        x = self.stem((x - MEAN.to(x.dtype)) / STD.to(x.dtype))
        left = list(lams)
        for i, block in enumerate(self.blocks):
            x = block(x, None if i % self.n == 0 else left.pop(0), self.lambda_form)
        assert not left
        return self.fc(F.relu(self.bn(x)).mean((2, 3)))


class ResNeXtBlock(nn.Module):
    def __init__(self, c_in: int, out: int, stride: int, cardinality: int) -> None:
        super().__init__()
        inner = cardinality * out // 4
        self.reduce, self.bn1 = conv(c_in, inner, 1), nn.BatchNorm2d(inner)
        self.group, self.bn2 = conv(inner, inner, 3, stride, cardinality), nn.BatchNorm2d(inner)
        self.expand, self.bn3 = conv(inner, out, 1), nn.BatchNorm2d(out)
        self.projects = c_in != out or stride != 1
        if self.projects:
            self.conv_s, self.bn_s = conv(c_in, out, 1, stride), nn.BatchNorm2d(out)

    def forward(self, x: Tensor, lam: Tensor | None, lambda_form: bool) -> Tensor:
        f = F.relu(self.bn1(self.reduce(x)))
        f = F.relu(self.bn2(self.group(f)))
        f = self.bn3(self.expand(f))
        if self.projects:
            return F.relu(self.bn_s(self.conv_s(x)) + f)
        assert lam is not None
        return F.relu((1 - lam) * x + ((1 + lam) * f if lambda_form else f))


class PlainResNeXt29(nn.Module):
    def __init__(self, width: int, cardinality: int, classes: int, lambda_form: bool) -> None:
        super().__init__()
        self.lambda_form = lambda_form
        self.stem, self.bn = conv(3, width, 3), nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList()
        c_in = width
        for out, first_stride in ((4 * width, 1), (8 * width, 2), (16 * width, 2)):
            for i in range(3):
                self.blocks.append(ResNeXtBlock(c_in, out, first_stride if i == 0 else 1, cardinality))
                c_in = out
        self.fc = nn.Linear(c_in, classes)

    def forward(self, x: Tensor, lams: list[Tensor]) -> Tensor:
        x = F.relu(self.bn(self.stem((x - MEAN.to(x.dtype)) / STD.to(x.dtype))))
        left = list(lams)
        for i, block in enumerate(self.blocks):
            x = block(x, None if i % 3 == 0 else left.pop(0), self.lambda_form)
        assert not left
        return self.fc(x.mean((2, 3)))


def leaves(model: nn.Module, skip: type[nn.Module] | tuple[type[nn.Module], ...] = ()) -> list[nn.Module]:
    """Convolutions, norms and linear layers in the order in which they were made, but those inside ``skip``."""
    skipped = {part for module in model.modules() if isinstance(module, skip) for part in module.modules()}
    return [module for module in model.modules() if isinstance(module, LEAVES) and module not in skipped]


def copy_weights(
    source: nn.Module, target: nn.Module, skip: type[nn.Module] | tuple[type[nn.Module], ...] = ()
) -> None:
    """Copy every convolution, norm and linear layer, in order; a different number or shape fails."""
    for a, b in zip(leaves(source, skip), leaves(target), strict=True):
        assert type(a) is type(b)
        b.load_state_dict(a.state_dict())


def randomize_norms(model: nn.Module, var: tuple[float, float] = (0.1, 3.0)) -> None:
    """Give every batch norm random statistics and a random affine map, of either sign."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, *var)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
