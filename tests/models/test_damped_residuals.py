"""models.damp on torchvision's ResNets, on timm's layout and on blocks of one's own."""

import pytest
import torch
from torch import nn
from torchvision.models import convnext_tiny, resnet18, resnet50, wide_resnet50_2
from torchvision.models.convnext import CNBlock
from torchvision.models.resnet import BasicBlock, Bottleneck

from dampode import DampedBlock, models
from dampode.damping import Constant, Learned
from dampode.models import Residual
from dampode.weighting import one_plus


class TimmBasicBlock(nn.Module):
    """timm's basic block, written out: its children's names, and the order in which they run."""

    def __init__(self, channels, se=None):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.drop_block = nn.Identity()
        self.act1 = nn.ReLU(inplace=True)
        self.aa = nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = se
        self.act2 = nn.ReLU(inplace=True)
        self.downsample = None
        self.drop_path = None

    def forward(self, x):
        f = self.bn2(self.conv2(self.aa(self.act1(self.drop_block(self.bn1(self.conv1(x)))))))
        return self.act2((f if self.se is None else self.se(f)) + x)


class TimmBottleneck(nn.Module):
    """timm's bottleneck, written out."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
        self.drop_block = nn.Identity()
        self.act2 = nn.ReLU(inplace=True)
        self.aa = nn.Identity()
        self.conv3, self.bn3 = nn.Conv2d(2, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.se = None
        self.act3 = nn.ReLU(inplace=True)
        self.downsample = None
        self.drop_path = nn.Identity()

    def forward(self, x):
        f = self.act1(self.bn1(self.conv1(x)))
        f = self.bn3(self.conv3(self.aa(self.act2(self.drop_block(self.bn2(self.conv2(f)))))))
        return self.act3(self.drop_path(f) + x)


class Gate(nn.Module):
    """Scales every channel, as squeeze and excitation does."""

    def forward(self, x):
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


NETWORKS = {
    "resnet18": (resnet18, BasicBlock, 5),
    "resnet50": (resnet50, Bottleneck, 12),
    "wide_resnet50_2": (wide_resnet50_2, Bottleneck, 12),
    "timm basic": (lambda: nn.Sequential(*(TimmBasicBlock(3) for _ in range(3))), TimmBasicBlock, 3),
    "timm basic, se": (lambda: nn.Sequential(TimmBasicBlock(3, Gate())), TimmBasicBlock, 1),
    "timm bottleneck": (lambda: nn.Sequential(*(TimmBottleneck(3) for _ in range(3))), TimmBottleneck, 3),
}


@pytest.fixture(params=NETWORKS)
def case(request):
    torch.manual_seed(0)
    build, block, flows = NETWORKS[request.param]
    return build(), block, flows


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64)


def flows_of(network):
    return [module for module in network.modules() if isinstance(module, DampedBlock)]


@pytest.mark.parametrize("train", [False, True])
def test_lambda_0_is_the_network_to_the_last_bit(case, images, train):
    network, block, flows = case
    network.train(train)
    damped = models.damp(network, (block,), lambda: Constant(0.0))
    assert len(flows_of(damped)) == flows
    with torch.no_grad():
        assert torch.equal(damped(images), network(images))
    assert sorted(p.numel() for p in damped.parameters()) == sorted(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("rho", "gain"), [(None, 1.0), (one_plus, 1.3)])
def test_a_block_is_the_damped_step_followed_by_its_activation(rho, gain):
    torch.manual_seed(0)
    network = nn.Sequential(BasicBlock(4, 4)).eval()
    options = {} if rho is None else {"rho": rho}
    damped = models.damp(network, (BasicBlock,), lambda: Constant(0.3), **options)
    x, block = torch.randn(2, 4, 6, 6), network[0]
    f = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(damped(x), torch.relu(0.7 * x + gain * f))


def test_the_network_is_unchanged_and_each_block_learns_its_own_lambda(images):
    network = resnet18().eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    damped = models.damp(network, (BasicBlock,), lambda: Learned(0.1, 0.2))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(module.training for module in damped.modules())
    assert len(set(models.coefficients(damped))) == 5
    damped.train()(images).sum().backward()
    assert all(block.damping.raw.grad is not None for block in flows_of(damped))


def test_lambda_has_the_dtype_of_its_block():
    damped = models.damp(resnet18().double(), (BasicBlock,))
    assert {p.dtype for p in damped.parameters()} == {torch.float64}


def test_a_block_in_two_places_keeps_one_lambda():
    block = BasicBlock(3, 3).eval()
    damped = models.damp(nn.Sequential(block, block), (BasicBlock,))
    assert damped[0] is damped[1]
    assert len(models.coefficients(damped)) == 1


def test_a_residual_of_ones_own_damps_convnext(images):
    class Scaled(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.layer_scale, self.block, self.stochastic_depth = block.layer_scale, block.block, block.stochastic_depth

        def forward(self, x):
            return self.stochastic_depth(self.layer_scale * self.block(x))

    network = convnext_tiny().eval()
    damped = models.damp(
        network, (CNBlock,), lambda: Constant(0.0), residual=lambda block: Residual(Scaled(block), nn.Identity())
    )
    assert len(flows_of(damped)) == 18
    with torch.no_grad():
        assert torch.equal(damped(images), network(images))


def test_what_cannot_be_damped_is_refused_in_words():
    class Wider(BasicBlock):
        """A subclass, which may run its parts in another order."""

    with pytest.raises(ValueError, match="found none among 0 of Bottleneck"):
        models.damp(resnet18(), (Bottleneck,))
    with pytest.raises(ValueError, match="found none among 0 of BasicBlock"):
        models.damp(nn.Sequential(Wider(3, 3)), (BasicBlock,))
    with pytest.raises(ValueError, match="CNBlock has block, stochastic_depth: pass residual="):
        models.damp(convnext_tiny(), (CNBlock,))
    with pytest.raises(ValueError, match="got a block itself"):
        models.damp(BasicBlock(3, 3), (BasicBlock,))
    with pytest.raises(TypeError, match="network must be of type Module"):
        models.damp(resnet18, (BasicBlock,))
    with pytest.raises(TypeError, match="damping must be of type Damping"):
        models.damp(resnet18(), (BasicBlock,), lambda: 0.5)
    with pytest.raises(TypeError, match="Residual"):
        models.damp(resnet18(), (BasicBlock,), residual=lambda block: block.conv1)

    changing = nn.Sequential(BasicBlock(3, 3, downsample=nn.Identity()))
    with pytest.raises(ValueError, match="found none among 1 of BasicBlock"):
        models.damp(changing, (BasicBlock,))
