"""What attacks promise on a trained network: early exit, restarts, search, transfer, batches; bad input in words."""

from functools import partial

import pytest
import torch
from torch import nn

from dampode.robustness import (
    FGSM,
    IFGSM,
    PGD,
    Attack,
    RecenteredPGD,
    Square,
    Transfer,
    UniformNoise,
    accuracy,
    fgsm,
    ifgsm,
    pgd,
    recentered_pgd,
    square,
    uniform_noise,
)
from dampode.robustness.classifier import correct
from tests.helpers.trained import classifier, digits

EPS = 24 / 255
ATTACKS = [UniformNoise(), FGSM(), IFGSM(), PGD(restarts=2), RecenteredPGD(), Square(20), Transfer(classifier())]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Counting(nn.Module):
    """Counts the images that a network sees."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x):
        self.images += len(x)
        return self.model(x)


class NotesPrecision(nn.Module):
    """Notes what torch computes convolutions and products in."""

    def __init__(self, model):
        super().__init__()
        self.model, self.noted = model, []

    def forward(self, x):
        self.noted.append(precisions())
        return self.model(x)


def operations():
    backends = torch.backends
    return backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul


def precisions():
    return [operation.fp32_precision for operation in operations()]


def older_settings():
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


@pytest.fixture
def torch_settings():
    """Put back torch's settings, which are of the process."""
    before, (convolutions, products) = precisions(), older_settings()
    yield
    torch.backends.fp32_precision = "none"
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)
    for operation, precision in zip(operations(), before, strict=True):
        operation.fp32_precision = precision


def by_older_interface():
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")


def by_newer_interface():
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.backends.cudnn.rnn.fp32_precision = "ieee"
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def for_everything():
    torch.backends.fp32_precision = "tf32"


@pytest.mark.parametrize("user", [by_older_interface, by_newer_interface, for_everything])
@pytest.mark.usefixtures("torch_settings")
def test_no_pass_rounds_its_float32(user):
    user()
    before = precisions()
    (x, y), model = digits(), NotesPrecision(classifier()).eval()
    pgd(model, x[:4], y[:4], EPS, steps=2, keep="last", generator=seeded())
    fgsm(model, x[:4], y[:4], EPS)
    accuracy(model, x[:4], y[:4])
    with pytest.raises(ValueError, match="finite"):
        accuracy(Half().eval(), torch.ones_like(x[:4]), y[:4])
    assert len(model.noted) >= 5
    assert all(set(noted) == {"ieee"} for noted in model.noted)
    assert precisions() == before
    assert "tf32" in before
    if user is by_older_interface:
        assert older_settings() == (True, "medium")


@pytest.mark.parametrize("attack", [ifgsm, lambda *a, **k: pgd(*a, restarts=2, generator=seeded(), **k)])
def test_early_exit_breaks_the_same_examples_for_less(attack):
    (x, y), model = digits(), classifier()
    right, cost = {}, {}
    for keep in ("strongest", "first"):
        counting = Counting(model).eval()
        moved = attack(counting, x, y, EPS, keep=keep)
        cost[keep] = counting.images
        right[keep] = correct(model, moved, y)
    assert torch.equal(right["first"], right["strongest"])
    assert 0.1 < right["first"].double().mean() < 0.9
    assert cost["first"] < 0.8 * cost["strongest"]


def test_early_exit_keeps_the_first_broken_iterate():
    (x, y), model = digits(), classifier()
    x, y = x[:60], y[:60]
    iterates = [x, *(ifgsm(model, x, y, EPS, alpha=5 / 255, steps=m, keep="last") for m in range(1, 7))]
    broken = torch.stack([~correct(model, moved, y) for moved in iterates])
    moved = ifgsm(model, x, y, EPS, alpha=5 / 255, steps=6, keep="first")
    assert broken.any(0).sum() > 10
    for k in broken.any(0).nonzero().squeeze(1).tolist():
        assert torch.equal(moved[k], iterates[int(broken[:, k].int().argmax())][k])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_an_attack_stays_inside_and_is_its_seed_s_alone(attack):
    (x, y), model = digits(), classifier()
    x, y = x[:50], y[:50]
    moved = attack(model, x, y, EPS, seeded(), 50)
    assert (moved - x).abs().max() <= attack.traits.max_distance * EPS + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert not torch.equal(moved, x)
    in_pieces = attack(model, x, y, EPS, seeded(), 7)  # other sums, so that a gradient near zero may change its sign
    assert ((moved - in_pieces).abs() > 1e-6).double().mean() < 0.01
    assert torch.equal(moved, attack(model, x, y, EPS, seeded(), 50))
    assert torch.equal(attack(model, x, y, 0.0, seeded(), 50), x)
    assert all(p.grad is None for p in model.parameters())


def test_uniform_noise_fills_its_ball():
    x = torch.full((1, 1, 200, 200), 0.5, dtype=torch.float64)
    delta = uniform_noise(x, 0.1, seeded()) - x
    assert delta.var().item() == pytest.approx(0.1**2 / 3, rel=0.02)
    assert delta.abs().max() <= 0.1


def test_search_needs_no_gradient_and_grows_with_queries():
    (x, y), model = digits(), classifier()
    x, y = x[:120], y[:120]
    no_gradient = nn.Sequential(model, Detach()).eval()
    left = [accuracy(model, square(no_gradient, x, y, EPS, queries=q, generator=seeded()), y) for q in (1, 30, 200)]
    assert left[0] > left[1] > left[2]
    assert left[2] < accuracy(model, uniform_noise(x, EPS, seeded()), y) - 0.2
    right = correct(model, x, y)  # the others are broken already, and stay as they are
    assert torch.equal(square(no_gradient, x, y, 0.1, queries=200, generator=seeded())[~right], x[~right])
    x, y = x[right], y[right]
    values = ((square(no_gradient, x, y, 0.1, queries=200, generator=seeded()) - x).abs() / 0.1).flatten()
    inside = (x.flatten() >= 0.1) & (x.flatten() <= 0.9)
    torch.testing.assert_close(values[inside], torch.ones(int(inside.sum())), atol=1e-5, rtol=0)


def test_transfer_is_the_attack_on_the_source():
    (x, y), model = digits(), classifier()
    source = nn.Sequential(classifier(), nn.Dropout(0.5)).train()
    moved = Transfer(source, FGSM())(model, x, y, EPS, seeded(), 500)
    assert torch.equal(moved, fgsm(classifier(), x, y, EPS))
    assert source.training
    assert "Sequential" in repr(Transfer(source, FGSM()))
    with torch.no_grad():
        before = repr(Transfer(source))
        source[0][0].bias.add_(1.0)
    assert repr(Transfer(source)) != before


class Detach(nn.Module):
    def forward(self, x):
        return x.detach()


class Half(nn.Module):
    """NaN on images that are bright in the first pixel."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model(x) + torch.where(x[:, 0, 0, 0] > 0.5, torch.nan, 0.0)[:, None]


@pytest.mark.parametrize("attack", [fgsm, ifgsm, pgd, partial(square, queries=50)])
def test_bad_input_ends_in_words(attack):
    model, (x, y) = classifier(), digits()
    x, y = x[:5].clone(), y[:5]
    for images, error, words in (
        (x + 1, ValueError, r"pixels must lie in \[0, 1\], got"),
        (x * torch.nan, ValueError, r"pixels must lie in \[0, 1\], got"),
        ((255 * x).byte(), TypeError, r"pixels must be float32 or float64.*use x\.float\(\) / 255"),
        (x.half(), TypeError, r"convert them with \.float\(\)\. In half precision"),
        (x.numpy(), TypeError, "images must be of type Tensor"),
        (x[:0], ValueError, "must not be empty"),
        (x[:4], ValueError, "one label per image"),
    ):
        with pytest.raises(error, match=words):
            attack(model, images, y, 0.1)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\), the model's classes, got 10"):
        attack(model, x, y + 10 - y.max(), 0.1)
    with pytest.raises(ValueError, match="eps must be at least 0"):
        attack(model, x, y, -0.1)
    with pytest.raises(ValueError, match=r"must give logits \(N, classes\)"):
        attack(model[:-1][:3].eval(), x, y, 0.1)
    with pytest.warns(UserWarning, match="look like probabilities"):
        attack(nn.Sequential(model, nn.Softmax(1)).eval(), x, y, 0.1)
    x[0, 0, 0, 0], x[3, 0, 0, 0] = 0.0, 1.0
    with pytest.raises(ValueError, match=r"logits must be finite: 1 of 5 images gave NaN or infinity.* image 3 "):
        attack(Half().eval(), x, y, 0.1)


def test_an_attack_without_call_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Attack()


class Wrapped(nn.Module):
    """A classifier whose logits go through a function."""

    def __init__(self, then):
        super().__init__()
        self.linear, self.then = nn.Linear(12, 3), then

    def forward(self, x):
        return self.then(self.linear(x.flatten(1)))


def images():
    return torch.rand(4, 3, 2, 2, generator=seeded()), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("then", "kind", "words"),
    [
        (lambda z: (z,), TypeError, "the model's output must be of type Tensor"),
        (lambda z: z.mean(0, keepdim=True).repeat(2, 1), ValueError, "got shape .2, 3. for 4 images"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(then, kind, words):
    """One row of logits for all images would be compared with every label."""
    x, y = images()
    with pytest.raises(kind, match=words):
        accuracy(Wrapped(then), x, y)


def test_a_model_without_a_gradient_is_refused_in_words():
    x, y = images()
    with pytest.raises(ValueError, match="the model must be differentiable"):
        fgsm(Wrapped(lambda z: z.detach()).eval(), x, y, EPS)
    with pytest.raises(TypeError, match="model must be of type Module"):
        fgsm(lambda x: x, x, y, EPS)


@pytest.mark.parametrize("attack", [fgsm, ifgsm, pgd, recentered_pgd, square])
def test_a_model_with_a_part_in_training_mode_is_attacked_in_eval_mode_and_put_back(attack):
    x, y = images()
    model = nn.Sequential(nn.Dropout(0.5), Wrapped(lambda z: z)).eval()
    expected = attack(model, x, y, EPS, **_draws(attack))
    model[0].train()
    with pytest.warns(UserWarning, match="0 is in training mode; the model is attacked in eval mode") as said:
        found = attack(model, x, y, EPS, **_draws(attack))
    assert torch.equal(found, expected)
    assert [module.training for module in (model, *model)] == [False, True, False]
    assert len(said) == 1
    assert said[0].filename == __file__


def _draws(attack):
    few = {"queries": 50} if attack is square else {}
    return few | ({"generator": seeded()} if attack in (pgd, recentered_pgd, square) else {})


def test_attacks_work_in_inference_mode_and_on_logits_of_another_dtype():
    x, y = images()
    model = Wrapped(lambda z: z).eval()
    expected = ifgsm(model, x, y, EPS, steps=3)
    with torch.inference_mode():
        torch.testing.assert_close(ifgsm(model, x, y, EPS, steps=3), expected)
    for dtype in (torch.float64, torch.bfloat16):
        assert ifgsm(Wrapped(lambda z, dtype=dtype: z.to(dtype)).eval(), x, y, EPS, steps=3).dtype == x.dtype
