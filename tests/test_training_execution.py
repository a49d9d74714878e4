"""Precision, layout and compilation change the arithmetic, not what is learned."""

import pytest
import torch
from test_training import net, tiny, weights
from torch import nn

from dampode import data, models, training
from dampode.training import Execution, Recipe, fit


def convolutional(width=8):
    torch.manual_seed(0)
    return models.in_resnet(14, width=width, in_channels=1, mean=(0.3,), std=(0.4,))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits").subset(train=640)


@pytest.fixture(scope="module")
def losses(digits):
    """The loss of four epochs in each precision, and the test accuracy."""
    results = {}
    for precision in ("fp32", "bf16"):
        model = convolutional()
        recipe = Recipe(epochs=4, batch_size=32, milestones=(0.75,))
        history = fit(model, digits, recipe, seed=1, execution=Execution(precision))
        model.eval()
        with torch.no_grad():
            right = (model(data.pixels(digits.x_test)).argmax(1) == digits.y_test).float().mean().item()
        results[precision] = (history, right)
    return results


def test_bf16_learns_what_fp32_learns(losses):
    (fp32, right32), (bf16, right16) = losses["fp32"], losses["bf16"]
    assert fp32.loss != bf16.loss
    assert right32 > 0.8
    # 360 test images: the standard deviation of the difference of two accuracies near 0.9 is 2.2 points
    assert abs(right32 - right16) < 0.066
    assert bf16.loss[-1] == pytest.approx(fp32.loss[-1], rel=0.25)


def test_fp16_scales_its_loss_and_resumes(tmp_path):
    recipe, path = Recipe(epochs=2, batch_size=16), tmp_path / "run.pt"
    model = net()
    history = fit(model, tiny(), recipe, execution=Execution("fp16"), checkpoint=path)
    assert training.load_checkpoint(path)["scaler"]["scale"] > 1
    assert history.loss[-1] == pytest.approx(fit(net(), tiny(), recipe).loss[-1], rel=0.05)
    resumed = net()
    fit(resumed, tiny(), recipe, execution=Execution("fp16"), checkpoint=path, resume=True)
    assert torch.equal(weights(resumed), weights(model))


def test_layouts_give_the_same_step(digits):
    """One step; later ones drift apart as roundings grow. The model comes back contiguous."""
    stepped, few = [], digits.subset(train=32)
    for channels_last in (False, True):
        model = convolutional()
        fit(model, few, Recipe(epochs=1, batch_size=32), execution=Execution(channels_last=channels_last))
        assert all(p.is_contiguous() for p in model.parameters())
        stepped.append(weights(model))
    torch.testing.assert_close(*stepped, rtol=1e-4, atol=1e-5)


def test_the_layout_is_chosen_where_it_pays():
    cpu = torch.device("cpu")
    for model, expected in (
        (convolutional(), torch.channels_last),
        (convolutional(width=4), torch.contiguous_format),
        (convolutional(width=7), torch.contiguous_format),
        (net(), torch.contiguous_format),
    ):
        with Execution().layout(model, cpu) as layout:
            assert layout == expected
    with (
        pytest.raises(ValueError, match="channels_last must stay off on a CPU where a convolution has 4 to 7 channels"),
        Execution(channels_last=True).layout(nn.Conv2d(8, 4, 3), cpu),
    ):
        pass


@pytest.mark.slow
def test_compiled_is_the_same_run(tmp_path):
    plain, compiled = net(), net()
    recipe, path = Recipe(epochs=2, batch_size=16), tmp_path / "run.pt"
    plain[4].p = compiled[4].p = 0.0  # dropout draws otherwise when compiled
    fit(plain, tiny(), recipe)
    fit(compiled, tiny(), recipe, execution=Execution(compile="default"), checkpoint=path)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-4, atol=1e-5)
    assert set(training.load_checkpoint(path)["model"]) == set(plain.state_dict())


def test_executions_are_checked():
    for wrong, words in (({"precision": "fp8"}, "precision must be one of fp32"), ({"compile": True}, "compile must")):
        with pytest.raises(ValueError, match=words):
            Execution(**wrong)
    with pytest.raises(TypeError, match="channels_last must be True, False or None"):
        Execution(channels_last=1)
