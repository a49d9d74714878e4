"""A folded network under the tools that trace or rewrite a plain network."""

import pytest
import torch
from torch import nn

from dampode import DampedBlock, models
from tests.helpers.authors_networks import randomize_norms

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*reduce_range:UserWarning"),
]


@pytest.fixture(params=[models.in_resnet, models.lambda_in_resnet])
def folded(request):
    torch.manual_seed(0)
    model = request.param(20, width=8)
    randomize_norms(model)
    return models.fold(model)


@pytest.fixture
def images():
    return torch.rand(16, 3, 16, 16)


def test_it_has_no_damped_block_and_normalizes_as_before():
    model = models.in_resnet(14, width=2, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).double().eval()
    folded = models.fold(model)
    assert not any(isinstance(module, DampedBlock) for module in folded.modules())
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(folded.normalize(x), model.normalize(x))
    assert folded.normalize.mean.dtype == torch.float64
    assert not any(module.training for module in folded.modules())


def test_fx_traces_it(folded, images):
    traced = torch.fx.symbolic_trace(folded)
    with torch.no_grad():
        assert torch.equal(traced(images), folded(images))


@pytest.mark.parametrize("kind", ["script", "trace", "frozen"])
def test_torchscript_takes_it(folded, images, kind):
    with torch.no_grad():
        made = torch.jit.trace(folded, images[:2]) if kind == "trace" else torch.jit.script(folded)
        made = torch.jit.freeze(made) if kind == "frozen" else made
        torch.testing.assert_close(made(images), folded(images), rtol=1e-4, atol=1e-4)


def test_dynamic_quantization_takes_it(folded, images):
    quantization = pytest.importorskip("torch.ao.quantization")
    quantized = quantization.quantize_dynamic(folded, {nn.Linear}, dtype=torch.qint8)
    assert not isinstance(quantized.classifier, nn.Linear)
    with torch.no_grad():
        expected = folded(images)
        assert (quantized(images) - expected).abs().max() < 0.05 * expected.abs().max()


def test_static_quantization_takes_it(folded, images):
    quantization = pytest.importorskip("torch.ao.quantization")
    fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this build of torch has no fbgemm")
    mapping = quantization.get_default_qconfig_mapping("fbgemm")
    prepared = fx.prepare_fx(folded, mapping, (images,))
    with torch.no_grad():
        prepared(images)
        quantized = fx.convert_fx(prepared)
        assert not any(type(module) is nn.Conv2d for module in quantized.modules())
        expected, actual = folded(images), quantized(images)
        assert (actual - expected).norm() < 0.2 * expected.norm()
