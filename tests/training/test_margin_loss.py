"""The loss of a run: cross entropy, and cross entropy that asks for a margin."""

import pytest
import torch
import torch.nn.functional as F

from dampode.training import MarginLoss


def test_without_a_margin_it_is_cross_entropy():
    z, y = torch.randn(7, 4), torch.randint(4, (7,))
    assert torch.equal(MarginLoss()(z, y), F.cross_entropy(z, y))


def test_a_margin_is_asked_for():
    """With margin m and a small temperature the loss is 0 from a margin of m on, and grows by 1 / T below it."""
    y = torch.zeros(1, dtype=torch.int64)
    loss = MarginLoss(margin=2.0, temperature=0.01)
    assert loss(torch.tensor([[2.1, 0.0]]), y) < 1e-4
    assert loss(torch.tensor([[1.0, 0.0]]), y) == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize("wrong", [{"margin": -1.0}, {"temperature": 0.0}])
def test_bad_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MarginLoss(**wrong)
