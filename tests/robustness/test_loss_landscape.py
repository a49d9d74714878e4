import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dampode.robustness import Landscape, fgsm, landscape
from dampode.robustness.loss_landscape import fgsm_direction, orthogonal_direction


def net():
    torch.manual_seed(0)
    layers = nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3)
    return nn.Sequential(nn.Flatten(), *layers).double().eval()


def images(n=3, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(1)
    x = low + (high - low) * torch.rand(n, 3, 2, 2, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_the_grid_is_pointwise_evaluation(batch_size):
    model, (x, y) = net(), images()
    along, across = (-20.0, 0.0, 5.5, 60.0), (-9.0, 0.0, 30.0)
    got = landscape(model, x, y, along=along, across=across, seed=3, batch_size=batch_size)
    d = fgsm_direction(model, x, y)
    r = orthogonal_direction(d, 3)
    assert got.loss.shape == got.prediction.shape == (3, 4, 3)
    for n in range(3):
        for i, a in enumerate(along):
            for j, b in enumerate(across):
                logits = model((x[n] + (a * d[n] + b * r[n]) / 255).clamp(0, 1)[None])
                expected = F.cross_entropy(logits, y[n : n + 1]).item()
                assert got.loss[n, i, j].item() == pytest.approx(expected, abs=1e-12)
                assert got.prediction[n, i, j] == logits.argmax()


def test_the_line_is_the_loss_of_fgsm():
    """At a >= 0, b = 0 stands the FGSM image of radius a/255, clip included."""
    model, (x, y) = net(), images(20)
    got = landscape(model, x, y, along=(0.0, 2.0, 40.0), across=(-1.0, 0.0))
    for i, radius in enumerate((0, 2, 40)):
        expected = F.cross_entropy(model(fgsm(model, x, y, radius / 255)), y, reduction="none")
        torch.testing.assert_close(got.line[:, i], expected.detach())
    assert torch.equal(got.line, landscape(model, x, y, along=(0.0, 2.0, 40.0)).loss[:, :, 0])


def test_a_unit_is_one_level_of_eight_bits():
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double().eval()
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    x, y = images(1, low=0.4, high=0.6)  # far from where the clip acts
    landscape(model, x, y, along=(1.0,), across=(0.0,))
    assert ((seen[-1] - x).abs() * 255 - 1).abs().max() < 1e-12
    landscape(model, x, y, along=(0.0,), across=(0.0, 1.0))
    assert ((seen[-1][1] - x[0]).abs() * 255 - 1).abs().max() < 1e-12


def test_directions_are_exactly_orthogonal_signs():
    generator = torch.Generator().manual_seed(0)
    d = torch.randint(0, 2, (200, 3, 4, 4), generator=generator) * 2.0 - 1
    r = orthogonal_direction(d, 0)
    assert ((r * d).flatten(1).sum(1) == 0).all()
    assert (r.abs() == 1).all()
    assert torch.equal(r, orthogonal_direction(d, 0))
    assert not torch.equal(r, orthogonal_direction(d, 1))
    # no pixel is preferred: 200 draws of ±1 each, a mean beyond 5 standard errors would be chance once in 3e5 tests
    assert (r * d).mean(0).abs().max() < 5 / 200**0.5
    assert (orthogonal_direction(torch.ones(200, 1, 1, 2), 0)[:, 0, 0, 0].mean()).abs() < 5 / 200**0.5


def test_directions_with_zeros_stay_orthogonal():
    d = torch.ones(2, 1, 3, 3)
    d[0, 0, 0, :2] = 0  # 7 others: one of them must stay
    r = orthogonal_direction(d, 0)
    assert ((r * d).flatten(1).sum(1) == 0).all()
    assert (r == 0).flatten(1).sum(1).tolist() == [1, 1]
    assert (r[0, 0, 0, :2].abs() == 1).all()


def test_shares_images_and_json():
    model, (x, y) = net(), images()
    got = landscape(model, x, y, along=(-90.0, 0.0, 90.0), across=(-9.0, 0.0))
    assert got.accuracy[1] == pytest.approx((got.prediction[1] == y[1]).double().mean().item())
    one = got.image(1)
    assert torch.equal(one.loss, got.loss[1:2])
    assert torch.equal(one.labels, y[1:2])
    alone = landscape(model, x[:1], y[:1], along=(-90.0, 0.0, 90.0), across=(-9.0, 0.0))
    torch.testing.assert_close(alone.loss, got.loss[:1])
    stored = json.loads(got.to_json())
    assert stored["loss"] == got.loss.tolist()
    assert stored["along"] == [-90, 0, 90]


def test_the_mode_comes_back_and_no_gradient_stays():
    model, (x, y) = net().train(), images()
    with pytest.warns(UserWarning, match="is in training mode; the model is attacked in eval mode"):
        got = landscape(model, x, y, along=(0.0, 1.0))
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(got.loss, landscape(model.eval(), x, y, along=(0.0, 1.0)).loss)


def test_refusals():
    model, (x, y) = net(), images()
    for along in ((), (1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="along must hold increasing coordinates, at least one"):
            landscape(model, x, y, along=along)
    with pytest.raises(ValueError, match="a coordinate of along must be finite"):
        landscape(model, x, y, along=(0.0, float("nan")))
    with pytest.raises(TypeError, match="a coordinate of across must be a number"):
        landscape(model, x, y, along=(0.0,), across=("0",))
    with pytest.raises(ValueError, match="across must hold 0, the FGSM direction itself"):
        landscape(model, x, y, along=(0.0,), across=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        landscape(model, 2 * x, y, along=(0.0,))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\)"):
        landscape(model, x, y + 3, along=(0.0,))
    dead = net()
    dead[1].weight.data.zero_()
    with pytest.raises(ValueError, match=r"needs a gradient, which is 0 at images \[0, 1, 2\]"):
        landscape(dead, x, y, along=(0.0,))


def test_an_image_is_counted_from_either_end():
    labels, grid = torch.arange(3), torch.arange(3.0).view(3, 1, 1)
    whole = Landscape((0.0,), (0.0,), labels, grid, grid.long())
    assert whole.image(-1).labels.tolist() == [2]
    with pytest.raises(IndexError):
        whole.image(3)
