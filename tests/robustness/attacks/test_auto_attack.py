"""The attacks of AutoAttack against plain formulas, and their laws on a trained network."""

import math
from functools import partial

import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import nn

from dampode.robustness import (
    APGD,
    FAB,
    FGSM,
    PGD,
    AutoAttack,
    Square,
    TargetedAPGD,
    TargetedFAB,
    accuracy,
    evaluate,
    pgd,
    uniform_noise,
)
from dampode.robustness.attacks.apgd import checkpoints
from dampode.robustness.attacks.fab import to_hyperplane
from dampode.robustness.attacks.losses import dlr, targeted_dlr
from dampode.robustness.attacks.square import bump, side
from dampode.robustness.classifier import correct
from dampode.robustness.draws import ImageDraws
from dampode.robustness.norms import dual_length, into_ball, length, steepest
from tests.helpers.trained import classifier, few_digits

RADII = {"linf": 24 / 255, "l2": 0.6}
ATTACKS = [
    APGD(steps=20),
    APGD("dlr", steps=20),
    TargetedAPGD(targets=3, steps=20),
    FAB(steps=10),
    TargetedFAB(targets=3, steps=10),
    Square(queries=30),
]
EACH = [type(attack)(**{**vars(attack), "norm": norm}) for attack in ATTACKS for norm in RADII]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(n=4, seed=0):
    return ImageDraws.of(n, seeded(seed), torch.device("cpu"))


# formulas


def test_checkpoints_are_the_paper_s():
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), w_j = ceil(p_j M)."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    for steps in (1, 5, 20, 37, 1000):
        p, expected = [0.0, 0.22], []
        while p[-1] <= 1 + 1e-9:
            expected.append(math.ceil(p[-1] * steps - 1e-9))
            p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
        assert checkpoints(steps) == sorted(set(expected))


def test_dlr_is_its_formula():
    z, y, t = torch.randn(40, 7, dtype=torch.float64, generator=seeded()), torch.arange(40) % 7, torch.arange(40) % 5
    t = torch.where(t == y, 6, t)
    t = torch.where(t == y, 5, t)
    of_label, of_both = dlr(z, y[:, None]), targeted_dlr(z, torch.stack([y, t], 1))
    for i in range(40):
        s = sorted(z[i].tolist(), reverse=True)
        other = max(v for j, v in enumerate(z[i].tolist()) if j != y[i])
        assert of_label[i].item() == pytest.approx(-(z[i, y[i]].item() - other) / (s[0] - s[2]), abs=1e-9)
        ratio = -(z[i, y[i]] - z[i, t[i]]).item() / (s[0] - (s[2] + s[3]) / 2)
        assert of_both[i].item() == pytest.approx(ratio, abs=1e-9)
    torch.testing.assert_close(dlr(1e4 * z + 3, y[:, None]), of_label)
    assert torch.equal(of_label > 0, z.argmax(1) != y)


@pytest.mark.parametrize("norm", RADII)
def test_a_projection_is_into_both_sets_and_moves_no_point_of_both(norm):
    center, x = torch.rand(50, 3, 4, 4, generator=seeded()), 3 * torch.rand(50, 3, 4, 4, generator=seeded(1)) - 1
    eps = RADII[norm]
    found = into_ball(x, center, eps, norm)
    assert length(found - center, norm).max() <= eps + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    torch.testing.assert_close(into_ball(found, center, eps, norm), found)
    if norm == "linf":
        plain = torch.minimum(torch.maximum(x, center - eps), center + eps).clamp(0, 1)
    else:
        delta = x - center
        size = delta.square().sum((1, 2, 3), keepdim=True).sqrt()
        plain = (center + delta * torch.minimum(torch.tensor(eps), size) / size).clamp(0, 1)
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_the_steepest_direction_reaches_the_dual_norm(norm, scale):
    g = scale * torch.randn(20, 3, 4, 4, dtype=torch.float64, generator=seeded())
    d = steepest(g, norm)
    torch.testing.assert_close(length(d, norm), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close((g * d).sum((1, 2, 3)), dual_length(g, norm))
    assert torch.equal(steepest(0 * g, norm), 0 * g)
    small = steepest(torch.full((1, 5), 1e-30), norm)  # in float32 its square is 0
    torch.testing.assert_close(length(small, norm), torch.ones(1))


@pytest.mark.parametrize("norm", RADII)
def test_the_way_to_a_hyperplane_is_the_shortest(norm):
    """Against a linear program in L-infinity and a general solver in L2."""
    generator = seeded(3)
    x = torch.rand(12, 6, dtype=torch.float64, generator=generator)
    w = torch.randn(12, 6, dtype=torch.float64, generator=generator)
    w[0, 2] = 0.0
    most = (w * torch.where(w > 0, 1 - x, -x)).sum(1)
    change = most * torch.linspace(0.05, 0.95, 12, dtype=torch.float64)
    delta = to_hyperplane(x, w, change, norm)
    torch.testing.assert_close((w * delta).sum(1), change)
    assert (x + delta).min() >= -1e-12
    assert (x + delta).max() <= 1 + 1e-12
    for i in range(12):
        box = list(zip((-x[i]).tolist(), (1 - x[i]).tolist(), strict=True))
        if norm == "linf":  # minimize t subject to |d_j| <= t
            ones, eye = torch.ones(6, 1, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
            rows = torch.cat([torch.cat([eye, -ones], 1), torch.cat([-eye, -ones], 1)])
            equal = [[*w[i].tolist(), 0.0]]
            found = linprog([0] * 6 + [1], rows, [0] * 12, equal, [change[i].item()], [*box, (0, None)]).fun
        else:
            constraint = {"type": "eq", "fun": lambda d, i=i: d @ w[i].numpy() - change[i].item()}
            start = delta[i].numpy()
            found = minimize(lambda d: d @ d, start * 0.9, bounds=box, constraints=constraint, tol=1e-14).fun ** 0.5
        assert length(delta, norm)[i].item() == pytest.approx(found, rel=1e-4)
    beyond = to_hyperplane(x, w, 2 * most, norm)  # no such point: the corner
    torch.testing.assert_close(x + beyond, torch.where(w == 0, x, (w > 0).double()))


def test_squares_shrink_as_in_the_paper():
    """p = 0.8, halved at queries 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000 of 10,000; the side is sqrt(p H W)."""
    for query, halvings in ((1, 0), (10, 0), (11, 1), (50, 1), (51, 2), (201, 3), (501, 4), (1001, 5), (4001, 7)):
        assert side(query, 10_000, 32, 32) == max(1, round((0.8 / 2**halvings * 1024) ** 0.5))
    assert side(8001, 10_000, 32, 32) == side(801, 1_000, 32, 32) == 1
    assert side(1, 10_000, 8, 40) == 8


@pytest.mark.parametrize("size", [3, 4, 7, 12])
def test_a_bump_is_two_hills_of_opposite_sign(size):
    upper = size // 2

    def hill(height, width):
        middle = height // 2, width // 2
        rings = max(height, width) // 2 + 1
        values = [
            [
                sum(1 / k**2 for k in range(max(abs(i - middle[0]), abs(j - middle[1])) + 1, rings + 1))
                for j in range(width)
            ]
            for i in range(height)
        ]
        return torch.tensor(values, dtype=torch.float64)

    plain = torch.cat(
        [hill(upper, size) / hill(upper, size).norm(), -hill(size - upper, size) / hill(size - upper, size).norm()]
    )
    torch.testing.assert_close(bump(size), plain / plain.norm())


def test_draws_are_of_each_image_alone():
    many, few = draws(100), draws(3)
    assert torch.equal(many.uniform(5)[:3], few.uniform(5))
    index = torch.tensor([7, 2])
    assert torch.equal(many.at(index).stream(4).normal(2, 2), many.stream(4).normal(2, 2)[index])
    values = many.uniform(4000)
    assert values.mean().item() == pytest.approx(0.5, abs=2e-3)
    assert values.var().item() == pytest.approx(1 / 12, rel=1e-2)
    assert torch.corrcoef(torch.stack([values.flatten(), many.stream(0).uniform(4000).flatten()]))[0, 1].abs() < 1e-2
    assert torch.corrcoef(values[:20]).fill_diagonal_(0).abs().max() < 0.08
    normal = many.normal(4000)
    assert normal.mean().item() == pytest.approx(0, abs=5e-3)
    assert normal.var().item() == pytest.approx(1, rel=1e-2)
    assert torch.isfinite(normal).all()
    counts = many.integers(7, 1000).flatten().bincount(minlength=7)
    assert len(counts) == 7
    assert (counts / counts.sum() - 1 / 7).abs().max() < 5e-3
    assert set(many.signs(9).unique().tolist()) == {-1.0, 1.0}
    assert not torch.equal(draws(3, seed=1).uniform(5), few.uniform(5))


# laws


@pytest.mark.parametrize("attack", [*EACH, FGSM("l2"), PGD(steps=5, norm="l2")], ids=str)
def test_an_attack_stays_in_its_ball_and_is_its_seed_s_alone(attack):
    (x, y), model = few_digits(), classifier()
    x, y, norm = x[:60], y[:60], attack.traits.norm
    eps = RADII[norm]
    moved = attack(model, x, y, eps, seeded(), 60)
    assert length(moved - x, norm).max() <= eps + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert torch.equal(attack(model, x, y, 0.0, seeded(), 60), x)
    assert torch.equal(attack(model, x, y, eps, seeded(), 60), moved)
    assert accuracy(model, moved, y) < accuracy(model, x, y) - (0 if isinstance(attack, Square) else 0.2)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert attack(model.double(), x.double(), y, eps, seeded(), 60).dtype == torch.float64


@pytest.mark.parametrize("attack", EACH, ids=str)
def test_images_are_broken_alike_in_batches_of_7_and_500_and_without_their_neighbors(attack):
    (x, y), model = few_digits(), classifier()
    x, y = x[:70], y[:70]
    eps = RADII[attack.norm]
    flags = correct(model, attack(model, x, y, eps, seeded(), 500), y)
    assert torch.equal(correct(model, attack(model, x, y, eps, seeded(), 7), y), flags)
    alone = attack(model, x[:20], y[:20], eps, seeded(), 500)
    assert torch.equal(correct(model, alone, y[:20]), flags[:20])


@pytest.mark.parametrize(
    "attack", [TargetedAPGD(steps=20), TargetedFAB(steps=10), APGD(steps=20, restarts=4), FAB(steps=5, restarts=4)]
)
def test_runs_that_share_passes_give_what_they_give_one_after_another(attack):
    (x, y), model = few_digits(), classifier().double()
    x, y = x[:20].double(), y[:20]
    sizes = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    eps = RADII["linf"] / 2
    alone = attack(model, x, y, eps, seeded(), len(x) // 4)
    passes, images = len(sizes), sum(sizes)
    together = attack(model, x, y, eps, seeded(), 500)
    assert max(sizes[passes:]) > len(x)
    assert len(sizes) - passes < passes / 2
    assert sum(sizes[passes:]) >= images
    assert 0 < int(correct(model, alone, y).sum()) < len(x)
    assert torch.allclose(together, alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", RADII)
def test_auto_attack_is_at_least_as_strong_as_each_of_its_attacks(norm):
    (x, y), model = few_digits(), classifier()
    x, y, eps = x[:70], y[:70], RADII[norm]
    whole = AutoAttack(norm, steps=15, queries=50)
    left = correct(model, whole(model, x, y, eps, seeded()), y)
    names = [type(attack) for attack in whole.attacks]
    assert names == [APGD, TargetedAPGD, TargetedFAB, Square]
    for attack in whole.attacks:
        assert accuracy(model, attack(model, x, y, eps, seeded()), y) >= left.double().mean() - 0.01
    by_pgd = accuracy(model, pgd(model, x, y, eps, norm=norm, keep="first", generator=seeded()), y)
    assert left.double().mean() <= by_pgd <= accuracy(model, uniform_noise(x, RADII["linf"], seeded()), y)


def test_the_versions_are_the_paper_s():
    assert AutoAttack("l2", "rand").attacks == (APGD("ce", repeats=20, norm="l2"), APGD("dlr", repeats=20, norm="l2"))
    assert AutoAttack(version="plus").attacks == (
        APGD("ce", restarts=5),
        APGD("dlr", restarts=5),
        FAB(restarts=5),
        Square(5000, 10_000),
        TargetedAPGD(),
        TargetedFAB(),
    )
    (x, y), model = few_digits(), classifier()
    x, y = x[:30], y[:30]
    for version in ("plus", "rand"):
        moved = AutoAttack(version=version, steps=5, queries=5)(model, x, y, RADII["linf"], seeded())
        assert accuracy(model, moved, y) < accuracy(model, x, y)


class Counting(nn.Module):
    """Counts the images that a network sees."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x):
        self.images += len(x)
        return self.model(x)


def test_broken_images_cost_nothing_more():
    (x, y), model = few_digits(), Counting(classifier()).eval()
    moved = APGD()(model, x, y, 64 / 255, seeded())
    assert accuracy(model.model, moved, y) == 0
    assert model.images < 15 * len(x)  # of 101 passes


def test_a_gradient_that_vanishes_in_float32_is_no_obstacle_to_the_ratio_of_logits():
    (x, y), model = few_digits(), classifier()
    x, y, eps = x[:100], y[:100], RADII["linf"]
    saturated = nn.Sequential(model, Times(1e4)).eval()
    by_cross_entropy, by_ratio = (
        accuracy(model, APGD(loss, steps=30)(saturated, x, y, eps, seeded()), y) for loss in ("ce", "dlr")
    )
    assert by_cross_entropy > by_ratio + 0.2
    assert by_ratio <= accuracy(model, APGD("dlr", steps=30)(model, x, y, eps, seeded()), y) + 0.02


class Times(nn.Module):
    """A factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, z):
        return self.factor * z


# words


def few_classes(classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).eval()


@pytest.mark.parametrize(
    ("attack", "classes", "words"),
    [
        (TargetedAPGD(), 3, "at least 4 classes, got 3; attack with APGD"),
        (AutoAttack(), 2, "at least 4 classes, got 2"),
        (APGD("dlr"), 2, "at least 3 classes, got 2"),
        (AutoAttack(version="rand"), 2, "at least 3 classes, got 2"),
    ],
)
def test_too_few_classes_are_said(attack, classes, words):
    x, _ = few_digits()
    with pytest.raises(ValueError, match=words):
        attack(few_classes(classes), x, torch.zeros(len(x), dtype=torch.int64), 0.1)
    for fitting in (APGD(steps=2), TargetedFAB(steps=2), FAB(steps=2), Square(2)):
        fitting(few_classes(2), x, torch.zeros(len(x), dtype=torch.int64), 0.1)


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (partial(APGD, "hinge"), ValueError, 'loss must be "ce" or "dlr", got .hinge'),
        (partial(APGD, steps=0), ValueError, "steps must be a positive int"),
        (partial(APGD, repeats=1.5), TypeError, "repeats must be a positive int"),
        (partial(TargetedAPGD, targets=0), ValueError, "targets must be a positive int"),
        (partial(FAB, restarts=-1), ValueError, "restarts must be a positive int"),
        (partial(TargetedFAB, steps=True), TypeError, "steps must be a positive int"),
        (partial(Square, schedule=0), ValueError, "schedule must be a positive int"),
        (partial(AutoAttack, version="full"), ValueError, 'version must be "standard", "plus" or "rand", got .full'),
        *[
            (partial(kind, norm="L2"), ValueError, 'norm must be "linf" or "l2", got .L2')
            for kind in (APGD, TargetedAPGD, FAB, TargetedFAB, Square, AutoAttack, FGSM, PGD)
        ],
    ],
)
def test_settings_are_checked_when_made(build, error, words):
    with pytest.raises(error, match=words):
        build()


def test_a_radius_of_the_wrong_scale_is_said():
    (x, y), model = few_digits(), classifier()
    for attack in (AutoAttack(), PGD(), FGSM(), Square()):
        with pytest.raises(ValueError, match=r"eps must be at most 1, .* got 8; divide 8-bit units by 255"):
            attack(model, x, y, 8, seeded(), 500)
    for attack in (AutoAttack("l2"), PGD(norm="l2"), FGSM("l2"), Square(norm="l2")):
        with pytest.raises(ValueError, match=r"at most 8 in L2, .* of 64 values in \[0, 1\], got 128; divide 8-bit"):
            attack(model, x, y, 128, seeded(), 500)
    with pytest.raises(ValueError, match="eps must be at most 1"):
        evaluate(model, x, y, eps=[2.0], noises=(), attacks={"FGSM": FGSM(), "in L2": FGSM("l2")})
    report = evaluate(model, x[:20], y[:20], eps=[2.0], noises=(), attacks={"in L2": FGSM("l2")})
    assert report.column("in L2", 2.0).overshoot < 1e-6


def test_square_needs_images():
    with pytest.raises(ValueError, match=r"square needs images \(N, C, H, W\), got shape \(5, 64\)"):
        Square()(few_classes(4)[1].eval(), torch.rand(5, 64), torch.zeros(5, dtype=torch.int64), 0.1)
