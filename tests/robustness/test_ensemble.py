from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dampode.robustness import Ensemble, accuracy, fgsm, ifgsm, pgd
from dampode.robustness.ensemble import combined

EPS = 0.05


def net(seed, classes=3):
    torch.manual_seed(seed)
    layers = nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, classes)
    return nn.Sequential(nn.Flatten(), *layers).double().eval()


def images(n=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, 2, 2, generator=generator, dtype=torch.float64)
    return x, (x.flatten(1)[:, :3]).argmax(1)


def trained(seed):
    """A network that knows `images`' rule, so that attacks have something to break."""
    model, (x, y) = net(seed), images(400)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def members():
    return [trained(seed) for seed in range(3)]


def test_combined_is_numpys():
    z = 30 * np.random.default_rng(0).standard_normal((4, 7, 5))
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    logits = torch.from_numpy(z)
    np.testing.assert_allclose(combined(logits, "softmax").numpy(), np.log(p.mean(0)), rtol=1e-12)
    np.testing.assert_allclose(combined(logits, "logits").numpy(), z.mean(0), rtol=1e-12, atol=1e-12)
    votes = np.stack([(z.argmax(-1) == k).sum(0) for k in range(5)], -1)
    np.testing.assert_allclose(combined(logits, "votes").numpy(), np.log((votes + 1) / 9), rtol=1e-12)


@pytest.mark.parametrize("combine", ["softmax", "votes"])
def test_scores_are_log_probabilities_even_of_huge_logits(combine):
    logits = 1e4 * torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    scores = combined(logits, combine)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(6))


def test_the_gradient_is_that_of_finite_differences():
    ensemble, (x, y) = Ensemble([net(0), net(1)]), images(3)
    assert torch.autograd.gradcheck(
        lambda x: F.cross_entropy(ensemble(x), y, reduction="sum"), (x.requires_grad_(),), atol=1e-7, rtol=1e-6
    )


def test_one_member_is_the_model_itself():
    model, (x, y) = net(0), images()
    for combine in ("softmax", "logits"):
        single = Ensemble([model], combine)
        torch.testing.assert_close(single(x).log_softmax(1), model(x).log_softmax(1))
        assert torch.equal(fgsm(single, x, y, EPS), fgsm(model, x, y, EPS))
    torch.testing.assert_close(Ensemble([model, model])(x), model(x).log_softmax(1))
    assert torch.equal(Ensemble([model], "votes")(x).argmax(1), model(x).argmax(1))


def test_the_attack_on_the_ensemble_is_its_own(members):
    x, y = images()
    ensemble = Ensemble(members)
    moved = ifgsm(ensemble, x, y, EPS, alpha=EPS / 4, steps=8)

    def loss(images):
        return F.cross_entropy(ensemble(images), y)

    for member in members:
        of_member = ifgsm(member, x, y, EPS, alpha=EPS / 4, steps=8)
        assert not torch.equal(of_member, moved)
        assert loss(moved) > loss(of_member) > loss(x)


def test_modes_follow_the_members():
    assert not any(module.training for module in Ensemble([net(0), net(1)]).modules())
    ensemble = Ensemble([net(0), net(1).train()])
    assert ensemble.training
    assert not ensemble.members[0].training
    assert "combine='votes'" in repr(Ensemble([net(0)], "votes"))


def test_votes_refuse_a_gradient_in_words(members):
    votes, (x, y) = Ensemble(members, "votes"), images()
    assert 0.9 < accuracy(votes, x, y) <= 1
    for attack in (partial(fgsm, eps=EPS), partial(pgd, eps=EPS)):
        with pytest.raises(ValueError, match=r'votes have no gradient: attack Ensemble\(members, "softmax"\)'):
            attack(votes, x, y)
    moved = pgd(Ensemble(members), x, y, EPS)
    assert accuracy(votes, moved, y) < accuracy(votes, x, y)


def test_refusals():
    x, _ = images()
    with pytest.raises(ValueError, match="at least one member, got none"):
        Ensemble([])
    with pytest.raises(TypeError, match=r"members must be of type list or tuple, got Sequential; give one model as"):
        Ensemble(net(0))
    with pytest.raises(TypeError, match="a member must be of type Module, got str"):
        Ensemble([net(0), "resnet"])
    with pytest.raises(ValueError, match='combine must be "softmax", "logits" or "votes", got \'mean\''):
        Ensemble([net(0)], "mean")
    with pytest.raises(ValueError, match="members must be on one device, got cpu, meta; move"):
        Ensemble([net(0), net(1).to("meta")])
    with pytest.raises(ValueError, match=r"same classes, got logits of shapes \[\(40, 3\), \(40, 4\)\]"):
        Ensemble([net(0), net(0, classes=4)])(x)
