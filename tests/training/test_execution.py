"""Precision, layout and compilation change the arithmetic, not what is learned."""

import pytest
import torch
from torch import nn

from dampode import DampedBlock, data, models
from dampode.training import Execution, Recipe, fit, load_checkpoint
from dampode.training.run import Run
from tests.helpers.training import net, tiny, weights


def convolutional(width=8):
    torch.manual_seed(0)
    return models.in_resnet(14, width=width, in_channels=1, mean=(0.3,), std=(0.4,), anchor=1.0)


def test_the_same_tensors_in_another_network_are_no_checkpoint_of_it(digits, tmp_path):
    path, short = tmp_path / "run.pt", digits.subset(train=64)
    fit(convolutional(), short, Recipe(1, 64), checkpoint=path)
    other = models.lambda_in_resnet(14, width=8, in_channels=1, mean=(0.3,), std=(0.4,))
    with pytest.raises(ValueError, match=r"at 'stages\.0\.1\.func' the model expects .*one_plus.*the file has .*unit"):
        fit(other, short, Recipe(1, 64), checkpoint=path, resume=True)


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
    assert load_checkpoint(path)["scaler"]["scale"] > 1
    assert history.loss[-1] == pytest.approx(fit(net(), tiny(), recipe).loss[-1], rel=0.05)
    resumed = net()
    fit(resumed, tiny(), recipe, execution=Execution("fp16"), checkpoint=path, resume=True)
    assert torch.equal(weights(resumed), weights(model))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_callers_autocast_changes_nothing(precision):
    alone, inside = net(), net()
    fit(alone, tiny(), Recipe(2, 8), execution=Execution(precision))
    with torch.autocast("cpu", torch.bfloat16):
        fit(inside, tiny(), Recipe(2, 8), execution=Execution(precision))
    assert torch.equal(weights(alone), weights(inside))


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


def test_compiled_code_keeps_the_layout(monkeypatch):
    """Left to itself torch.compile makes every convolution on a CPU channels-last, the broken ones too."""
    told = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: told.append(how) or model)
    for layout in (torch.contiguous_format, torch.channels_last):
        Execution(compile="reduce-overhead").compiled(nn.Linear(2, 2), layout)
    assert [how["options"]["layout_optimization"] for how in told] == [False, True]
    assert all(how["options"]["triton.cudagraphs"] for how in told)


@pytest.mark.slow
def test_compiled_is_the_same_run(tmp_path):
    plain, compiled = net(), net()
    recipe, path = Recipe(epochs=2, batch_size=16), tmp_path / "run.pt"
    plain[4].p = compiled[4].p = 0.0  # dropout draws otherwise when compiled
    fit(plain, tiny(), recipe)
    fit(compiled, tiny(), recipe, execution=Execution(compile="default"), checkpoint=path)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-4, atol=1e-5)
    assert set(load_checkpoint(path)["model"]) == set(plain.state_dict())


def compiled_graphs(model, images):
    """Train for a step, block by block; the number of graphs that this compiled."""
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    fit(model, images, Recipe(epochs=1, batch_size=32, lr=0.01), execution=Execution(compile="blocks"))
    return torch._dynamo.utils.counters["stats"]["unique_graphs"] - before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo reads it
def test_blocks_alike_are_compiled_once(digits):
    """Depth 20: three entries and three kinds of flows, two of each."""
    eager, compiled = (models.in_resnet(20, width=8, in_channels=1, mean=(0.3,), std=(0.4,)) for _ in range(2))
    compiled.load_state_dict(eager.state_dict())
    fit(eager, digits.subset(train=32), Recipe(epochs=1, batch_size=32, lr=0.01))
    assert compiled_graphs(compiled, digits.subset(train=32)) == 6
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_more_kinds_of_blocks_than_torch_compile_expects(digits, monkeypatch):
    """By itself it gives up on a function at the eighth kind of input, and says nothing."""
    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **how: compile(module, backend="eager", **how))
    layers = [nn.Flatten(), nn.Linear(64, 1)]
    for width in range(1, 10):
        layers += [DampedBlock(nn.Linear(width, width)), nn.Linear(width, width + 1)]
    assert compiled_graphs(nn.Sequential(*layers), digits.subset(train=32)) == 9


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("compile", ["off", "blocks"])
def test_recorded_steps_are_steps(digits, compile, tmp_path, monkeypatch):
    """Six epochs of three steps, the last one smaller, with two new learning rates; then interrupted and resumed."""
    on_gpu = digits.subset(train=80).to("cuda")
    recipe, path = Recipe(epochs=6, batch_size=32, lr=0.01, milestones=(0.5, 0.75)), tmp_path / "run.pt"
    plain, recorded, resumed = (convolutional().cuda() for _ in range(3))
    execution, set_lr = Execution(compile=compile, step_graph=True), Run._set_lr

    def until_the_fifth_epoch(run, lr):
        if run.epoch == 4:
            raise KeyboardInterrupt
        set_lr(run, lr)

    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        fit(plain, on_gpu, recipe)
        fit(recorded, on_gpu, recipe, execution=execution)
        with monkeypatch.context() as patched:
            patched.setattr(Run, "_set_lr", until_the_fifth_epoch)
            with pytest.raises(KeyboardInterrupt):
                fit(resumed, on_gpu, recipe, execution=execution, checkpoint=path)
        fit(resumed, on_gpu, recipe, execution=execution, checkpoint=path, resume=True)
    torch.testing.assert_close(weights(recorded), weights(plain), rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(weights(resumed), weights(plain), rtol=1e-3, atol=2e-3)


def test_executions_are_checked():
    for wrong, words in (
        ({"precision": "fp8"}, "precision must be one of fp32"),
        ({"compile": True}, "compile must"),
        ({"step_graph": True, "precision": "fp16"}, "step_graph takes bf16 or fp32"),
        ({"step_graph": True, "compile": "reduce-overhead"}, "step_graph takes .* no mode that records graphs"),
    ):
        with pytest.raises(ValueError, match=words):
            Execution(**wrong)
    with pytest.raises(TypeError, match="channels_last must be True, False or None"):
        Execution(channels_last=1)
    with pytest.raises(ValueError, match="step_graph needs one process on a CUDA device, got 1 on cpu"):
        fit(net(), tiny(), Recipe(epochs=1, batch_size=16), execution=Execution(step_graph=True))
    with pytest.raises(ValueError, match="takes a model of DampedBlock or Transition, got none"):
        Execution(compile="blocks").compiled(nn.Linear(2, 2), torch.contiguous_format)
