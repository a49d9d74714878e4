"""A job that takes seconds: a shallow network, two epochs, 128 images of three classes."""

from dataclasses import replace

import torch

from benchmarks.paper.plan import protocols
from benchmarks.paper.plan.jobs import Job
from benchmarks.paper.plan.protocols import Scale
from benchmarks.paper.plan.rows import ROWS
from dampode.data import ImageData
from dampode.robustness import IFGSM, PGD, RecenteredPGD

TEXT = replace(protocols.TEXT, ifgsm=IFGSM(2 / 255, 2, "last"), pgd=PGD(2 / 255, 2, keep="last"))
CODE = replace(protocols.CODE, ifgsm=IFGSM(1 / 255, 2, "last"), pgd=RecenteredPGD(1 / 255, 2))
TOY = Scale("toy", narrow=8, epochs=2, attacked_images=8)
ROW = replace(ROWS["lambda_in_resnet-110"], depth=14)


def toy_images():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(144) % 3
    x = torch.randint(0, 120, (144, 3, 8, 8), generator=generator, dtype=torch.uint8)
    x += (60 * y).to(torch.uint8).view(-1, 1, 1, 1)
    return ImageData("toy", x[:128], y[:128], x[128:], y[128:], 10)


def toy_job(seeds=(0,), protocol=TEXT, scale=TOY, row=ROW):
    return Job(row, "cifar10", seeds, protocol, scale)


def numbers(result):
    """What two runs of one job must agree in."""
    keys = ("accuracy", "reports", "coefficients", "failed")
    return {key: result[key] for key in keys} | {"loss": result["training"]["loss"]}


def never_called(*args, **kwargs):
    raise AssertionError("computed again")


def bytes_of(folder):
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }
