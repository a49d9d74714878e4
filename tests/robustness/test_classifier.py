import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dampode import robustness
from dampode.robustness import SEVERITIES, accuracy, corrupt, fgsm, ifgsm, pgd, square, uniform_noise


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("name", SEVERITIES)
def test_noise_has_the_moments_of_cifar_c(name, severity):
    """Mean and variance on mid-gray, where the clip does not act; truncation to 8 bits takes off half a level."""
    c, gray = SEVERITIES[name][severity - 1], 0.5
    x = torch.full((1, 3, 400, 400), gray, dtype=torch.float64)
    noisy = corrupt(x, name, severity, torch.Generator().manual_seed(0))
    variance = {
        "gaussian_noise": c**2,
        "speckle_noise": (c * gray) ** 2,
        "shot_noise": gray / c,
        "impulse_noise": c / 4,
    }[name]
    # half of the untouched values of impulse noise are truncated by the same 0.5/255
    assert noisy.mean().item() == pytest.approx(gray - 0.5 / 255, abs=0.0015)
    assert noisy.var().item() == pytest.approx(variance, rel=0.02)
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    torch.testing.assert_close(noisy * 255, (noisy * 255).round(), rtol=0, atol=1e-9)


def test_draws_are_per_element_and_seeded():
    x = torch.full((2, 3, 8, 8), 0.5)
    draws = [corrupt(x, "gaussian_noise", 5, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].unique().numel() > 50


def test_fgsm_is_eq_19():
    model, x, y = net(), torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    leaf = x.clone().requires_grad_()
    sum(F.cross_entropy(model(leaf[i : i + 1]), y[i : i + 1]) for i in range(5)).backward()
    expected = (x + 0.03 * leaf.grad.sign()).clamp(0, 1)
    model.zero_grad()
    got = fgsm(model, x, y, 0.03)
    torch.testing.assert_close(got, expected)
    assert all(p.grad is None for p in model.parameters())
    assert not got.requires_grad


@pytest.mark.parametrize("eps", [0.0, 1 / 255, 0.5])
def test_fgsm_stays_in_its_ball(eps):
    model, x, y = net(), torch.rand(50, 3, 2, 2), torch.randint(0, 3, (50,))
    moved = fgsm(model, x, y, eps)
    assert (moved - x).abs().max() <= eps + 1e-7
    assert moved.min() >= 0
    assert moved.max() <= 1
    with torch.no_grad():  # works where gradients are off
        torch.testing.assert_close(fgsm(model, x, y, eps), moved)


def test_ifgsm_is_eq_20():
    model, x, y = net(), torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    expected = x
    for _ in range(7):
        leaf = expected.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        expected = torch.max(torch.min(leaf.detach() + 0.01 * gradient.sign(), x + 0.03), x - 0.03).clamp(0, 1)
    torch.testing.assert_close(ifgsm(model, x, y, 0.03, alpha=0.01, steps=7, keep="last"), expected)


def test_ifgsm_keeps_the_strongest_iterate():
    model, x, y = net(), torch.rand(60, 3, 2, 2), torch.randint(0, 3, (60,))

    def over(moved):  # the margin, written out
        logits = model(moved).detach()
        others = [torch.cat([row[:k], row[k + 1 :]]).max() for row, k in zip(logits, y, strict=True)]
        return torch.stack(others) - logits[range(60), y]

    strongest = over(ifgsm(model, x, y, 0.1, alpha=0.15, steps=5))
    iterates = [x, *(ifgsm(model, x, y, 0.1, alpha=0.15, steps=m, keep="last") for m in range(1, 6))]
    torch.testing.assert_close(strongest, torch.stack([over(moved) for moved in iterates]).amax(0))
    assert torch.equal(ifgsm(model, x, y, 0.0), x)
    with pytest.raises(ValueError, match="keep must be"):
        ifgsm(model, x, y, 0.1, keep="best")
    with pytest.raises(ValueError, match="alpha must be above 0"):
        ifgsm(model, x, y, 0.1, alpha=0.0)


def test_pgd_starts_at_random_inside_the_ball():
    model, x, y = net(), torch.rand(60, 3, 2, 2), torch.randint(0, 3, (60,))

    def seeded(seed, **settings):
        return pgd(model, x, y, 0.1, alpha=0.02, generator=torch.Generator().manual_seed(seed), **settings)

    def losses(moved):
        return F.cross_entropy(model(moved), y, reduction="none")

    def right(moved):
        return model(moved).argmax(1) == y

    delta = 0.1 * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) - 1)
    start = (x + delta).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(losses(start).sum(), start)
    one_step = torch.max(torch.min(start.detach() + 0.02 * gradient.sign(), x + 0.1), x - 0.1).clamp(0, 1)
    torch.testing.assert_close(seeded(3, steps=1, keep="last"), one_step)

    assert torch.equal(seeded(0), seeded(0))
    assert not torch.equal(seeded(0), seeded(1))
    assert (seeded(0) - x).abs().max() <= 0.1 + 1e-6
    assert (right(seeded(0, restarts=4)) <= right(seeded(0))).all()
    assert losses(seeded(0)).mean() > losses(fgsm(model, x, y, 0.1)).mean() - 1e-3
    assert torch.equal(pgd(model, x, y, 0.0), x)
    with pytest.raises(ValueError, match="restarts must be a positive int"):
        pgd(model, x, y, 0.1, restarts=0)


def test_accuracy_counts_and_restores_the_mode():
    model = net().train()
    x, y = torch.rand(7, 3, 2, 2), torch.randint(0, 3, (7,))
    model.eval()
    right = (model(x).argmax(1) == y).float().mean().item()
    model.train()
    statistics = model[2].running_mean.clone()
    assert accuracy(model, x, y, batch_size=3) == pytest.approx(right)
    assert model.training
    assert torch.equal(model[2].running_mean, statistics)


def test_labels_are_checked():
    model, x = net(), torch.rand(4, 3, 2, 2)
    for call in (lambda y: accuracy(model, x, y), lambda y: fgsm(model, x, y, 0.1), lambda y: ifgsm(model, x, y, 0.1)):
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), the model's classes, got 99"):
            call(torch.full((4,), 99))
        with pytest.raises(ValueError, match="labels must be at least 0"):
            call(torch.full((4,), -1))
        with pytest.raises(ValueError, match="one label per image"):
            call(torch.zeros(1, dtype=torch.int64))
        with pytest.raises(TypeError, match="labels must be an int64 tensor"):
            call(torch.zeros(4))
    with pytest.raises(ValueError, match="must not be empty"):
        accuracy(model, x[:0], torch.zeros(0, dtype=torch.int64))


def test_refusals():
    model, x, y = net(), torch.rand(2, 3, 2, 2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="noise must be one of gaussian_noise"):
        corrupt(x, "fog", 1)
    with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, got 0"):
        corrupt(x, "shot_noise", 0)
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        corrupt(2 * x + 1, "shot_noise", 1)
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        fgsm(model, x - 1, y, 0.1)
    with pytest.raises(ValueError, match="eps must be at least 0"):
        fgsm(model, x, y, -0.1)
    for call in (
        lambda: fgsm(model, x, y, 8),
        lambda: pgd(model, x, y, 0.1, alpha=2),
        lambda: square(model, x, y, 8),
        lambda: uniform_noise(x, 8),
    ):
        with pytest.raises(ValueError, match=r"must be at most 1, for pixels lie in .* divide 8-bit units by 255"):
            call()
    with pytest.raises(
        TypeError, match=r"pixels must be float32 or float64 in \[0, 1\], got torch\.uint8; use x\.float\(\) / 255"
    ):
        accuracy(model, (255 * x).byte(), y)
    with pytest.raises(ValueError, match="batch_size must be a positive int"):
        accuracy(model, x, y, batch_size=0)
    assert set(robustness.__all__) >= {"corrupt", "evaluate", "fgsm"}
