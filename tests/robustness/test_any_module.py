"""Any module that classifies pixels is measured, or refused in words before anything is measured."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dampode._identity import fingerprint
from dampode.robustness import (
    FGSM,
    PGD,
    DrawnNoise,
    Ensemble,
    Square,
    Transfer,
    UniformNoise,
    accuracy,
    corrupt,
    evaluate,
    fgsm,
    landscape,
    pgd,
)
from dampode.robustness.classifier import correct
from dampode.robustness.modes import eval_mode
from tests.helpers.trained import classifier, few_digits

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:quantized.*an autograd kernel was not registered:UserWarning"),
]
FREE = {"noise": UniformNoise(), "Square": Square(queries=5), "twin": Transfer(classifier(), FGSM())}
QUICK = {"eps": [8 / 255], "noises": ["shot_noise"], "severities": [5]}


def few():
    x, y = few_digits()
    return x[:40], y[:40]


def exported():
    x, _ = few()
    return torch.export.export(classifier(), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()


def frozen():
    return torch.jit.freeze(torch.jit.trace(classifier(), few()[0][:2]))


def dynamic():
    return torch.ao.quantization.quantize_dynamic(classifier(), {nn.Linear}, dtype=torch.qint8).eval()


class Extra(nn.Module):
    """The classifier with extra state and a sparse buffer."""

    def __init__(self, note="a"):
        super().__init__()
        self.model, self.note = classifier(), note
        self.register_buffer("mask", torch.eye(3).to_sparse())

    def get_extra_state(self):
        return {"note": self.note, "dtype": torch.float32}

    def set_extra_state(self, state):
        self.note = state["note"]

    def forward(self, x):
        return self.model(x)


BUILDS = {
    "exported": exported,
    "frozen": frozen,
    "scripted": lambda: torch.jit.trace(classifier(), few()[0][:2]),
    "averaged": lambda: AveragedModel(classifier()).eval(),
    "compiled": lambda: torch.compile(classifier(), backend="eager"),
    "extra state": lambda: Extra().eval(),
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_differentiable_modules_are_measured_as_the_plain_model(build):
    x, y = few()
    attacks = {"FGSM": FGSM(), "PGD": PGD(steps=3)}
    expected = evaluate(classifier(), x, y, attacks=attacks, **QUICK)
    got = evaluate(build(), x, y, attacks=attacks, **QUICK)
    for a, b in zip(expected.columns, got.columns, strict=True):
        assert (a.correct != b.correct).sum() <= 1, a.key
    assert fingerprint(build()) == fingerprint(build())


class Detached(nn.Module):
    """The classifier, cut from its input."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model(x.detach())


WITHOUT_GRADIENT = {
    "detached": lambda: Detached().eval(),
    "votes": lambda: Ensemble([classifier(), classifier()], "votes"),
    "quantized": dynamic,
}


@pytest.mark.parametrize("build", WITHOUT_GRADIENT.values(), ids=WITHOUT_GRADIENT)
def test_without_a_gradient_the_rest_is_measured(build, tmp_path):
    (x, y), model = few(), build()
    with pytest.raises(
        ValueError, match=r"the attack 'FGSM' needs a gradient: .*of these attacks: noise, Square, twin"
    ):
        evaluate(model, x, y, attacks={"FGSM": FGSM(), **FREE}, partial=tmp_path / "part.json", **QUICK)
    assert not (tmp_path / "part.json").exists()
    report = evaluate(model, x, y, attacks=FREE, **QUICK)
    assert {c.name for c in report.columns} >= {"clean", "shot_noise", *FREE}
    (check,) = (check for check in report.checks if check.name == "the gradient is not exactly zero")
    assert check.passed is None
    assert report.passed is None
    with pytest.raises(ValueError, match="gradient"):
        evaluate(classifier(), x, y, attacks={"it": Transfer(model, Transfer(model, PGD()))}, **QUICK)
    for attack in (fgsm, pgd):
        with pytest.raises(ValueError, match="gradient"):
            attack(model, x, y, 0.1)


def test_pixels_and_network_of_all_dtypes():
    x, y = few()
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for of_pixels in dtypes:
        for of_network in dtypes:
            model, pixels = classifier().to(of_network), x.to(of_pixels)
            if of_pixels == of_network and of_pixels in (torch.float32, torch.float64):
                name = str(of_pixels).removeprefix("torch.")
                assert evaluate(model, pixels, y, attacks={}, **QUICK).settings["precision"] == name
                continue
            error, words = (ValueError, "the model has tensors of torch")
            if of_pixels in (torch.float16, torch.bfloat16):
                error, words = (TypeError, "pixels must be float32 or float64")
            for call in (evaluate, accuracy, lambda *a: fgsm(*a, 0.1)):
                with pytest.raises(error, match=words):
                    call(model, pixels, y)


def test_what_a_model_cannot_take_is_said():
    x, y = few()
    with torch.inference_mode():
        made = classifier()
    with pytest.raises(ValueError, match=r"made in inference_mode.*: make or load it outside"):
        fgsm(made, x, y, 0.1)
    static = torch.export.export(classifier(), (x[:4],)).module()
    with pytest.raises(ValueError, match=r"got from it: Guard failed.*needs a batch dimension that is dynamic"):
        accuracy(static, x, y)
    with pytest.raises(ValueError, match=r"the model must take pixels of torch\.float32 and shape \(40, 3, 8, 8\)"):
        accuracy(classifier(), x.repeat(1, 3, 1, 1), y)
    program = torch.export.export(classifier(), (x[:4],))
    for call in (evaluate, accuracy, lambda *a: fgsm(*a, 0.1)):
        with pytest.raises(TypeError, match=r"model must be of type Module.*of an ExportedProgram take \.module\(\)"):
            call(program, x, y)


def test_every_entry_has_one_scale():
    (x, y), model = few(), classifier()
    entries = [
        lambda x: accuracy(model, x, y),
        lambda x: correct(model, x, y),
        lambda x: evaluate(model, x, y, attacks={}, **QUICK),
        lambda x: fgsm(model, x, y, 0.1),
        lambda x: pgd(model, x, y, 0.1, steps=1),
        lambda x: corrupt(x, "shot_noise", 1),
        lambda x: landscape(model, x, y, along=(0.0, 1.0)),
        lambda x: DrawnNoise(x, 0),
        lambda x: UniformNoise()(model, x, y, 0.1, torch.Generator(), 10),
    ]
    for entry in entries:
        with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\], got \[0, 255\]; divide images in 0\.\.255"):
            entry(255 * x / x.max())
        with pytest.raises(TypeError, match=r"pixels must be .* got torch\.uint8; use x\.float\(\) / 255"):
            entry((255 * x).byte())
        entry(x + 5e-7)  # rounding alone is clipped
        entry(x - 5e-7)
    assert fgsm(model, x + 5e-7, y, 0.0).max() <= 1


class Merging(nn.Module):
    """A classifier whose own train() merges weights, as low-rank adapters do."""

    def __init__(self):
        super().__init__()
        self.model, self.merged = classifier(), False

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        return self.model(x)


def test_modes_are_set_and_restored_by_the_modules_own_method():
    model = Merging().train()
    model.model[0].eval()
    with eval_mode(model):
        assert model.merged
        assert not any(module.training for module in model.modules())
    assert not model.merged
    assert model.training
    assert [module.training for module in model.model] == [False, *[True] * 5]


def test_a_replica_is_measured_alone(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        (x, y), model = few(), nn.parallel.DistributedDataParallel(classifier())
        model.eval()
        flags = model.require_backward_grad_sync, model.require_forward_param_sync
        assert torch.equal(pgd(model, x, y, 0.0, steps=3), x)
        assert accuracy(model, x, y) == accuracy(classifier(), x, y)
        assert (model.require_backward_grad_sync, model.require_forward_param_sync) == flags
    finally:
        torch.distributed.destroy_process_group()


def test_state_of_any_kind_has_a_fingerprint():
    assert fingerprint(Extra("a")) != fingerprint(Extra("b"))
    other = Extra("a")
    other.mask = 2 * other.mask
    assert fingerprint(other) != fingerprint(Extra("a"))
    one, two = dynamic(), dynamic()
    assert fingerprint(one) == fingerprint(two)
    changed = classifier()
    with torch.no_grad():
        changed[5].weight[0, 0] += 1.0
    assert fingerprint(torch.ao.quantization.quantize_dynamic(changed, {nn.Linear}, dtype=torch.qint8)) != fingerprint(
        one
    )
    assert fingerprint(torch.jit.freeze(torch.jit.trace(changed, few()[0][:2]))) != fingerprint(frozen())
    assert fingerprint(nn.Softmax()) == fingerprint(copy.deepcopy(nn.Softmax()))


def test_progress_is_lines_without_a_terminal(monkeypatch):
    (x, y), stream = few(), io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    evaluate(classifier(), x, y, attacks={"FGSM": FGSM()}, progress=True, **QUICK)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "robustness: 3 blocks"
    assert lines[1].startswith("robustness: 3 of 3 blocks, ")
    assert lines[-1].startswith("sanity checks: ")
