import pytest

from dampode.robustness import evaluate
from tests.helpers.trained import classifier, few_digits

EPS = [4 / 255, 8 / 255, 12 / 255]


@pytest.fixture(scope="session")
def plain():
    """The report of an undefended network under the default attacks and noises."""
    x, y = few_digits()
    return evaluate(classifier(), x, y, eps=EPS)
