"""Toy images, and a toy job run once for all tests of this folder."""

import pytest

from benchmarks.paper.run import complete_job
from tests.paper.toy import toy_images, toy_job


@pytest.fixture(scope="session")
def images():
    return toy_images()


@pytest.fixture(scope="session")
def finished(tmp_path_factory, images):
    """Folders and the result of one job run without interruption."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(complete_job, "CHANCE", -1.0)  # two steps of training do not lift a network above chance
        result = complete_job.complete(toy_job(), images, folder / "out", folder / "results", "command")
    return folder / "out", folder / "results", result
