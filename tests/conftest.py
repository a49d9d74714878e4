import os

os.environ["OMP_NUM_THREADS"] = "1"  # tests run in several processes, which would fight for the cores

import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def _surroundings():
    """Each test starts with the same random numbers, and with nothing compiled by the tests before it."""
    torch.manual_seed(0)
    torch.compiler.reset()


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
