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
    """The same random numbers and nothing compiled at the start of each test; no autocast left on at its end."""
    torch.manual_seed(0)
    torch.compiler.reset()
    yield
    torch.autocast_increment_nesting()
    assert torch.autocast_decrement_nesting() == 0


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
