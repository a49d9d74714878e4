"""The jobs of a target, their order and their names."""

from dataclasses import replace
from itertools import product

import pytest

from benchmarks.paper.plan.jobs import Job, job_named, jobs_of
from benchmarks.paper.plan.protocols import CODE, PROTOCOLS, SCALES, SMALL, TEXT
from benchmarks.paper.plan.rows import ROWS
from dampode.robustness import IFGSM, PGD, RecenteredPGD


def test_next_runs_the_core_seed_by_seed():
    jobs = jobs_of("next", ("cifar10", "cifar100"), (0, 1), TEXT, SCALES["full"])
    assert [j.stem.split("_cifar10")[0] for j in jobs[:3]] == ["resnet-110", "in_resnet-110", "lambda_in_resnet-110"]
    assert [j.seeds for j in jobs[:14]] == [(0,)] * 7 + [(1,)] * 7
    assert len({j.stem for j in jobs}) == len(jobs)
    assert len(jobs_of("next", ("cifar10",), (0, 1, 2), TEXT, SCALES["small"])) == 21
    with pytest.raises(ValueError, match="has nothing on cifar100"):
        jobs_of("table5", ("cifar100",), (0,), TEXT, SCALES["full"])
    with pytest.raises(ValueError, match="none twice"):
        jobs_of("table6", ("cifar10",), (0, 0), TEXT, SCALES["full"])


def test_every_job_has_a_name_of_its_own():
    cells = product(ROWS.values(), (0, 1), (TEXT, CODE), SCALES.values())
    stems = {Job(row, "cifar10", (seed,), protocol, scale).stem for row, seed, protocol, scale in cells}
    assert len(stems) == len(ROWS) * 2 * 2 * len(SCALES)


def test_a_job_is_found_by_its_config():
    job = Job(ROWS["in_resnet-110-frozen"], "cifar10", (0, 1), CODE, SMALL)
    assert job_named(job.config) == job
    assert job.config["network"]["ablation"] == "frozen"
    assert job.config["recipe"]["milestones"] == list(job.recipe.milestones)
    unknown = replace(job, scale=replace(SMALL, name="tiny"))
    with pytest.raises(ValueError, match="must be of an existing row, protocol and scale, got 'tiny'"):
        job_named(unknown.config)


def test_a_config_records_what_a_protocol_sets():
    text, code = (Job(ROWS["lambda_in_resnet-110"], "cifar10", (0,), p, SMALL).config["protocol"] for p in (TEXT, CODE))
    assert set(code) - set(text) == {"lambda_momentum"}


def test_the_protocols_are_the_papers_and_the_authors():
    text, code = (PROTOCOLS[name] for name in ("text", "code"))
    assert (text.ifgsm, text.pgd) == (IFGSM(2 / 255, 20, "last"), PGD(2 / 255, 20, 1, "last"))
    assert (code.ifgsm, code.pgd) == (IFGSM(1 / 255, 20, "last"), RecenteredPGD(1 / 255, 20))
    assert (text.augmentation.pad, text.augmentation.mode) == (4, "zero")
    assert (code.augmentation.pad, code.augmentation.mode) == (2, "reflect")
    assert (text.normalized_per_file, code.normalized_per_file) == (False, True)
    assert (text.lambda_momentum, code.lambda_momentum) == (None, pytest.approx(1 - 0.9**2))
    assert code.attacks["PGD"] is code.pgd
    assert code.attacks["IFGSM"] is code.ifgsm
