"""The verdicts on the paper's claims."""

from benchmarks.paper.plan.protocols import FULL, SMALL
from benchmarks.paper.render.claims import CLAIMS, RUNS, judge_all
from benchmarks.paper.render.statistics import printed
from tests.paper.render.made_up import made_up


def verdicts(runs):
    """Claim -> our verdict under protocol text."""
    return {judgment.claim: judgment.ours[0] for judgment in judge_all(runs)}


def test_without_results_no_claim_holds():
    assert "holds" not in "".join(verdict for judgment in judge_all([]) for verdict in judgment.ours)


def test_verdicts_take_enough_runs_at_full_scale():
    drop = "In-ResNet-110, CIFAR-10: accuracy drops by at most 3 points"

    def runs(damped, n, scale=FULL):
        pairs = (("resnet-110", 0.93), ("in_resnet-110", damped))
        return [made_up(row, (seed,), level=level, scale=scale) for row, level in pairs for seed in range(n)]

    assert verdicts(runs(0.91, RUNS))[drop] == "holds (93.00, 91.00)"
    assert verdicts(runs(0.89, RUNS))[drop] == "does not hold (93.00, 89.00)"
    assert verdicts(runs(0.91, RUNS - 1))[drop] == "too few runs (93.00, 91.00)"
    assert verdicts(runs(0.91, RUNS, SMALL))[drop] == "not run"


def test_the_printed_numbers_support_all_claims_but_one():
    found = [(claim.text, claim.judge(printed, "not printed", 1)[0]) for claim in CLAIMS]
    assert {verdict for _, verdict in found} == {"holds", "does not hold"}
    assert [text for text, verdict in found if verdict == "does not hold"] == [
        "In-ResNet-164, CIFAR-100: accuracy drops by at most 3 points"  # 76.06 to 72.94
    ]


def test_coefficients_cnns_and_failures_are_counted():
    lam = [0.5] * 40 + [0.005] * 10 + [2.5]
    runs = [made_up("in_resnet-110", (seed,), coefficients=lam) for seed in range(3)]
    runs += [made_up("cnn-110", (seed,), level=0.1, failed=True) for seed in range(3)]
    runs += [made_up("in_resnet-110-0.3-0.4", (seed,), failed=seed == 1) for seed in range(5)]
    found = verdicts(runs)
    assert found["In-ResNet-110, CIFAR-10: most λ_n (over half) lie in [0, 1]"] == "holds (98.0% of 51)"
    assert found["In-ResNet-110, CIFAR-10: very few λ_n (under 5%) exceed 2"] == "holds (2.0% of 51)"
    assert found["In-ResNet-110, CIFAR-10: most λ_n (over half) exceed 0.01"] == "holds (80.4% of 51)"
    assert found["In-ResNet-110, CIFAR-10: more accurate than the CNN of its depth"] == "holds (10.00, 90.00)"
    assert found["In-ResNet-110, CIFAR-10: some runs from U[0.3, 0.4] fail"] == "holds (1 of 5)"
