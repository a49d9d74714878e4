"""What weight decay alone does to λ over the paper's schedule, Sec. 4.1: 160 epochs, /10 after 80 and 120."""

import pytest
import torch

from dampode.damping import Learned

STEPS_AN_EPOCH = 391  # 50,000 images in batches of 128


def test_lambda_under_weight_decay_alone():
    dampings = [Learned(0.225, 0.225, anchor=anchor) for anchor in (1.0, 0.0)]
    raws = [d.raw for d in dampings]
    optimizer = torch.optim.SGD(raws, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [80, 120])
    for raw in raws:
        raw.grad = torch.zeros(())
    for _ in range(160):
        for _ in range(STEPS_AN_EPOCH):
            optimizer.step()
        schedule.step()
    anchor_one, anchor_zero = (d(0.0, torch.zeros(())).item() for d in dampings)
    assert anchor_one == pytest.approx(0.97, abs=0.005)
    assert anchor_zero == pytest.approx(0.008, abs=0.0005)
