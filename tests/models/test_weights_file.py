"""models.save and models.load: round trip, atomic writing, and every file that does not fit."""

import json
import os
import pickle
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from dampode import DampedBlock, models
from dampode.damping import Learned


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = models.in_resnet(14, width=4)
    network(torch.rand(4, 3, 8, 8))  # moves the running statistics
    return network


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_round_trip(model, path):
    models.save(model, path)
    other = models.in_resnet(14, width=4)
    models.load(other, path)
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(other.eval()(x), model.eval()(x))
    assert models.coefficients(other) == models.coefficients(model)


@pytest.mark.parametrize(
    "build", [models.cnn, models.in_resnet_sig, models.in_resnet_gating, models.lambda_in_resnet, models.resnet]
)
def test_round_trip_of_every_damping(build, path):
    source, target = build(14, width=2), build(14, width=2)
    models.save(source, str(path))
    models.load(target, str(path))
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_channels_last_and_folded_networks_are_saved(model, path):
    folded = models.fold(model).to(memory_format=torch.channels_last)
    models.save(folded, path)
    other = models.fold(models.in_resnet(14, width=4))
    models.load(other, path)
    assert all(torch.equal(a, b) for a, b in zip(folded.parameters(), other.parameters(), strict=True))


def test_the_header_holds_the_architecture_as_json(model, path):
    models.save(model, path)
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["architecture"])
    assert described == models.architecture(model)
    assert described["stages.0.1.func.damping"] == "Learned(act=relu, anchor=0, shape=())"
    assert "LinearizedEuler(steps=1)" in described["stages.0.1"]


@pytest.mark.parametrize(
    ("build", "key", "expected", "found"),
    [
        (lambda: models.in_resnet(14, width=2), "stem", "Conv2d(3, 2, ", "Conv2d(3, 4, "),
        (lambda: models.in_resnet(14, 100, width=4), "classifier", "out_features=100", "out_features=10,"),
        (lambda: models.in_resnet(20, width=4), "stages.0.2", "DampedBlock", "nothing"),
        (lambda: models.in_resnet(8, width=4), "stages.0.1", "nothing", "DampedBlock"),
        (lambda: models.in_resnet(14, width=4, anchor=1.0), "stages.0.1.func.damping", "anchor=1", "anchor=0"),
        (lambda: models.lambda_in_resnet(14, width=4), "stages.0.1.func", "rho=one_plus", "rho=unit"),
        (lambda: models.in_resnet_sig(14, width=4), "stages.0.1.func.damping", "act=sigmoid", "act=relu"),
        (lambda: models.resnet(14, width=4), "stages.0.1.func.damping", "Constant(0.0)", "Learned"),
        (lambda: models.in_resnet(14, width=4).double(), "normalize.mean", "float64", "float32"),
    ],
)
def test_another_architecture_is_named_at_its_first_difference(model, path, build, key, expected, found):
    models.save(model, path)
    other = build()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match="another architecture") as caught:
        models.load(other, path)
    message = str(caught.value)
    assert f"at '{key}'" in message
    wanted, got = message.split("the model expects ")[1].split(", the file has ")
    assert expected in wanted
    assert found in got
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


@pytest.mark.parametrize("kept", [0, 5, 300, -1000, -1])
def test_a_truncated_file(model, path, kept):
    models.save(model, path)
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(ValueError, match=r"not a complete safetensors file.*cut short"):
        models.load(model, path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_file_is_never_unpickled(model, path, legacy):
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"is pickled.*expected a safetensors file"):
        models.load(model, path)


def test_a_malicious_pickle_does_not_run(model, path, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="is pickled"):
        models.load(model, path)
    assert not (tmp_path / "ran").exists()


def test_a_safetensors_file_of_another_program(model, path):
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="no 'architecture' or no 'checksum' in its header"):
        models.load(model, path)


def test_a_missing_file(model, path):
    with pytest.raises(FileNotFoundError):
        models.load(model, path)


def test_a_failed_write_leaves_the_old_file(model, path, monkeypatch):
    models.save(model, path)
    old = path.read_bytes()

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        models.save(models.in_resnet(20, width=4), path)
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_save_takes_modules(path):
    with pytest.raises(TypeError, match="model must be of type Module, got dict"):
        models.save({}, path)


def test_modules_may_share_a_tensor(path):
    def shared():
        damping = Learned()
        return nn.Sequential(DampedBlock(nn.Linear(2, 2), damping), DampedBlock(nn.Linear(2, 2), damping))

    first, second = shared(), shared()
    models.save(first, path)
    models.load(second, path)
    assert torch.equal(second(torch.ones(1, 2)), first(torch.ones(1, 2)))
    assert second[0].func.damping.raw is second[1].func.damping.raw


def test_a_damaged_file_is_refused_in_words(model, path):
    models.save(model, path)
    whole = path.read_bytes()
    for place in (len(whole) - 1, len(whole) // 2, whole.index(b"Learned")):  # in the state, in the header
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is damaged, its checksum does not fit"):
            models.load(model, path)


def absolute(x):
    return x.abs()


class Absolute:
    def __call__(self, x):
        return x.abs()


@pytest.mark.parametrize(
    "block",
    [
        lambda: DampedBlock(nn.Identity(), Learned(act=lambda z: z.abs())),
        lambda: DampedBlock(nn.Identity(), rho=lambda lam: 1 + lam),
        lambda: DampedBlock(lambda x: x),
        lambda: DampedBlock(nn.Identity(), Learned(act=Absolute())),
        lambda: DampedBlock(partial(absolute)),
    ],
)
def test_a_function_without_a_name_is_refused(block, path):
    with pytest.raises(ValueError, match="define the function by def"):
        models.save(block(), path)
    assert not path.exists()


def test_a_plain_function_is_part_of_the_architecture(path):
    models.save(DampedBlock(absolute), path)
    models.load(DampedBlock(absolute), path)
    with pytest.raises(ValueError, match=r"expects Autonomous\(sin\), the file has Autonomous\(absolute\)"):
        models.load(DampedBlock(torch.sin), path)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_wrapped_network_is_saved_and_filled_as_itself(wrap, model, path):
    models.save(wrap(model), path)
    other = models.in_resnet(14, width=4)
    models.load(wrap(other), path)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))
    models.load(models.in_resnet(14, width=4), path)
