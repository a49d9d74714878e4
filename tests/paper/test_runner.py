"""The runner of the paper's rows: resumes, never recomputes, never mixes, and refuses what it cannot trust."""

import json
import signal
from dataclasses import replace
from itertools import product

import pytest
import torch

from benchmarks.paper import __main__ as run
from benchmarks.paper import landscapes, measure, settings
from benchmarks.paper import results_file as store
from benchmarks.paper import run as work
from benchmarks.paper.jobs import Job, jobs_of
from benchmarks.paper.rows import ROWS
from benchmarks.paper.settings import SCALES, Scale
from dampode import training
from dampode.data import ImageData, pixels
from dampode.robustness import IFGSM, PGD, DrawnNoise, RecenteredPGD
from dampode.training import Execution

TEXT = replace(settings.TEXT, ifgsm=IFGSM(2 / 255, 2, "last"), pgd=PGD(2 / 255, 2, keep="last"))
CODE = replace(settings.CODE, ifgsm=IFGSM(1 / 255, 2, "last"), pgd=RecenteredPGD(1 / 255, 2))
TOY = Scale("toy", narrow=8, epochs=2, attacked_images=8)
ROW = replace(ROWS["lambda_in_resnet-110"], depth=14)


def toy_images():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(144) % 3
    x = torch.randint(0, 120, (144, 3, 8, 8), generator=generator, dtype=torch.uint8)
    x += (60 * y).to(torch.uint8).view(-1, 1, 1, 1)
    return ImageData("toy", x[:128], y[:128], x[128:], y[128:], 10)


@pytest.fixture(scope="module", autouse=True)
def _toy_settings():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "CHANCE", -1.0)  # two steps of training do not lift a network above chance
        yield


@pytest.fixture(scope="module")
def images():
    return toy_images()


def job(seeds=(0,), protocol=TEXT, scale=TOY, row=ROW):
    return Job(row, "cifar10", seeds, protocol, scale)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images):
    """Folders and the result of one job run without interruption."""
    folder = tmp_path_factory.mktemp("finished")
    result = work.complete(job(), images, folder / "out", folder / "results", "command")
    return folder / "out", folder / "results", result


def numbers(result):
    return {key: result[key] for key in ("accuracy", "coefficients", "failed")} | {"loss": result["training"]["loss"]}


def no_work(*args, **kwargs):
    raise AssertionError("computed again")


def test_a_result_says_all(finished):
    out, results, result = finished
    assert set(result["accuracy"]) == set(measure.KEYS)
    assert [len(result["accuracy"][kind]) for kind in measure.NOISES] == [5] * 4
    assert len(result["coefficients"]) == 3
    assert len(result["training"]["loss"]) == TOY.epochs
    assert result["config"]["protocol"]["pgd"] == f"PGD(alpha={2 / 255}, steps=2, restarts=1, keep='last')"
    assert result["config"]["recipe"]["epochs"] == 2
    assert result["provenance"]["command"] == "command"
    assert {p.name for p in results.iterdir()} == {"lambda_in_resnet-110_cifar10_toy_text_seed0.json"}
    assert not list(out.glob("*.partial.json"))


def test_nothing_is_computed_twice(finished, images, monkeypatch):
    out, results, result = finished
    monkeypatch.setattr(training, "fit", no_work)
    monkeypatch.setattr(work, "measure", no_work)
    before = store_bytes(results)
    assert work.complete(job(), images, out, results, "another command") == result
    assert store_bytes(results) == before


def store_bytes(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_interrupted_training_and_measuring_end_in_the_same_numbers(finished, images, tmp_path, monkeypatch):
    fit, accuracy = training.fit, measure.accuracy

    def stops_after_an_epoch(model, data, recipe, **keywords):
        class Stops(settings.Augmentation):
            calls = 0

            def draw(self, n, generator):
                Stops.calls += 1
                if Stops.calls == 2:  # one batch an epoch
                    raise run.OutOfTime
                return super().draw(n, generator)

        return fit(model, data, replace(recipe, augmentation=Stops()), **keywords)

    monkeypatch.setattr(training, "fit", stops_after_an_epoch)
    with pytest.raises(run.OutOfTime):
        work.complete(job(), images, tmp_path / "out", tmp_path / "results", "")
    assert not list((tmp_path / "results").glob("*.json"))
    monkeypatch.setattr(training, "fit", fit)

    calls = []

    def stops_at_the_fifth(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise run.OutOfTime
        return accuracy(*arguments)

    monkeypatch.setattr(measure, "accuracy", stops_at_the_fifth)
    with pytest.raises(run.OutOfTime):
        work.complete(job(), images, tmp_path / "out", tmp_path / "results", "")
    half = store.read_for(work.partial(job(), tmp_path / "out"), job())
    assert list(half["accuracy"]) == ["acc", "acc attacked"]  # the first noise takes five calls
    monkeypatch.setattr(measure, "accuracy", lambda *a: calls.append(a) or accuracy(*a))
    calls.clear()
    result = work.complete(job(), images, tmp_path / "out", tmp_path / "results", "")
    assert len(calls) == 4 * 5 + 9
    assert numbers(result) == numbers(finished[2])


def test_scales_and_protocols_have_files_of_their_own_and_never_mix(finished, images, tmp_path):
    cells = product(ROWS.values(), (0, 1), (TEXT, CODE), SCALES.values())
    stems = {Job(row, "cifar10", (seed,), protocol, scale).stem for row, seed, protocol, scale in cells}
    assert len(stems) == len(ROWS) * 2 * 2 * len(SCALES)
    out, results, _ = finished
    before = store_bytes(results)
    for other, setting in (
        (replace(TOY, epochs=3), "recipe.epochs was 2, now it is 3"),
        (replace(TOY, attacked_images=9), "scale.attacked_images was 8, now it is 9"),
    ):
        with pytest.raises(ValueError, match=f"{setting}; results are never mixed"):
            work.complete(job(scale=other), images, out, results, "")
    with pytest.raises(ValueError, match=r"protocol\.normalized_per_file was False, now it is True"):
        work.complete(job(protocol=replace(TEXT, normalized_per_file=True)), images, out, results, "")
    with pytest.raises(ValueError, match=r"recipe\.epochs is 2 there and 3 here"):  # the checkpoint alone
        work.complete(job(scale=replace(TOY, epochs=3)), images, out, tmp_path, "")
    assert store_bytes(results) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda text: text[: len(text) // 2], "truncated or damaged"),
        (lambda text: text.replace('"command": "command"', '"command": "other"'), "was edited after it was written"),
        (lambda text: text.replace('"version": 1', '"version": 0'), "must be of version 1, got version 0"),
        (lambda text: '{"acc": 1}', "must be a result with"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_and_kept(finished, images, tmp_path, monkeypatch, harm, message):
    path = tmp_path / f"{job().stem}.json"
    path.write_text(harm((finished[1] / path.name).read_text()))
    before = store_bytes(tmp_path)
    monkeypatch.setattr(training, "fit", no_work)
    with pytest.raises(ValueError, match=message):
        work.complete(job(), images, finished[0], tmp_path, "")
    with pytest.raises(ValueError, match=message):
        store.read_all(tmp_path)
    assert store_bytes(tmp_path) == before


def test_two_results_of_one_cell_are_refused(finished, tmp_path):
    text = (finished[1] / f"{job().stem}.json").read_text()
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"a\.json and .*b\.json are two results of one cell"):
        store.read_all(tmp_path)


def test_a_result_is_never_written_over(tmp_path):
    store.write(tmp_path / "a.json", job().config, {"x": 1})
    before = store_bytes(tmp_path)
    with pytest.raises(FileExistsError, match="is not overwritten"):
        store.write(tmp_path / "a.json", job().config, {"x": 2})
    assert store_bytes(tmp_path) == before
    assert json.loads((tmp_path / "a.json").read_text())["x"] == 1


def arguments(tmp_path, minutes=None):
    return run.Args("next", minutes=minutes, out=tmp_path / "out", device="cpu")


def test_a_budget_too_short_for_an_epoch_is_said_and_changes_nothing(images, tmp_path, monkeypatch, capsys):
    def stops(*arguments, **keywords):
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(run, "load", lambda job, args: images)
    monkeypatch.setattr(training, "fit", stops)
    with pytest.raises(ValueError, match=r"--minutes 5 is too short for one epoch of lambda_in"):
        run.run([job()], arguments(tmp_path, 5.0), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_short_budgets_add_up(finished, images, tmp_path, monkeypatch, capsys):
    epochs = []
    fit = training.fit

    def stops_in_the_second_epoch(model, data, recipe, **keywords):
        class Stops(settings.Augmentation):
            def draw(self, n, generator):
                epochs.append(1)
                if len(epochs) == 2:
                    signal.raise_signal(signal.SIGALRM)
                return super().draw(n, generator)

        return fit(model, data, replace(recipe, augmentation=Stops()), **keywords)

    monkeypatch.setattr(run, "load", lambda job, args: images)
    monkeypatch.setattr(training, "fit", stops_in_the_second_epoch)
    run.run([job()], arguments(tmp_path, 5.0), tmp_path / "results")
    assert "minutes are over in lambda_in_resnet-110_cifar10_toy_text_seed0" in capsys.readouterr().out
    run.run([job(), job()], arguments(tmp_path), tmp_path / "results")
    assert len(epochs) == 3  # the first, the one cut short, and that one again
    (result,) = store.read_all(tmp_path / "results")
    assert numbers(result) == numbers(finished[2])


def test_a_job_that_another_process_has_is_passed_over(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(work, "complete", no_work)
    with work.claimed(job(), tmp_path / "out") as ours:
        assert ours
        run.run([job()], arguments(tmp_path), tmp_path / "results")
    assert "another process is at it" in capsys.readouterr().out
    with work.claimed(job(), tmp_path / "out") as ours:
        assert ours


def test_an_ensemble_is_of_its_members(finished, images):
    out, results, _ = finished
    with pytest.raises(ValueError, match=r"seed1\.json is not there; run"):
        work.complete(job((0, 1)), images, out, results, "")
    work.complete(job((1,)), images, out, results, "")
    result = work.complete(job((0, 1)), images, out, results, "")
    assert result["members"] == [0, 1]
    members = [work.trained(job((seed,)), images, out, Execution())[0].eval() for seed in (0, 1)]
    x = pixels(images.x_test)
    with torch.no_grad():
        right = sum(m(x).softmax(1) for m in members).argmax(1) == images.y_test
    assert result["accuracy"]["acc"] == right.double().mean().item()
    work.checkpoint(job((1,)), out).unlink()
    (results / f"{job((0, 1)).stem}.json").unlink()
    with pytest.raises(ValueError, match=r"seed1\.pt is not there"):
        work.complete(job((0, 1)), images, out, results, "")


def test_an_ensemble_of_failed_runs_has_failed(images, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "CHANCE", 10.0)
    for seed in (0, 1):
        work.complete(job((seed,)), images, tmp_path, tmp_path / "results", "")
    result = work.complete(job((0, 1)), images, tmp_path, tmp_path / "results", "")
    assert (result["failed"], result["members"], result["accuracy"]) == (True, [], {})


def test_a_run_that_diverges_is_a_failed_result(images, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "trained", lambda *a: (None, training.History([2.0, float("nan")], diverged=True)))
    result = work.complete(job(), images, tmp_path, tmp_path, "")
    assert result["failed"]
    assert result["accuracy"] == {}
    assert result["training"]["loss"] == [2.0]


def test_the_protocols_part_where_they_say(images):
    x, y = pixels(images.x_test), images.y_test
    model = ROW.build(10, TEXT, TOY).eval()
    plain, code = (measure.noise_source(DrawnNoise(x), protocol) for protocol in (TEXT, CODE))
    seen = torch.cat([model.normalize(measure.noise_file(code, "gaussian", severity)) for severity in range(1, 6)])
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(3))
    noisy = measure.noise_file(plain, "gaussian", 1)
    assert torch.equal(noisy, measure.noise_file(plain, "gaussian", 1))
    assert torch.equal((noisy * 255).round() / 255, noisy)
    far, near = (p.pgd(model, x, y, 4 / 255, torch.Generator().manual_seed(0), 500) for p in (CODE, TEXT))
    assert 4 / 255 + 1e-3 < (far - x).abs().max() <= 8 / 255 + 1e-6
    assert (near - x).abs().max() <= 4 / 255 + 1e-6
    starts = {p.name: ROWS["in_resnet-110"].build(10, p, SCALES["small"]) for p in (TEXT, CODE)}
    anchors = {name: next(m.anchor for m in net.modules() if hasattr(m, "anchor")) for name, net in starts.items()}
    assert anchors == {"text": 0.0, "code": 1.0}


def test_the_protocols_are_the_papers_and_the_authors():
    text, code = (settings.PROTOCOLS[name] for name in ("text", "code"))
    assert (text.ifgsm, text.pgd) == (IFGSM(2 / 255, 20, "last"), PGD(2 / 255, 20, 1, "last"))
    assert (code.ifgsm, code.pgd) == (IFGSM(1 / 255, 20, "last"), RecenteredPGD(1 / 255, 20))
    assert (text.augmentation.pad, text.augmentation.mode) == (4, "zero")
    assert (code.augmentation.pad, code.augmentation.mode) == (2, "reflect")
    assert (text.normalized_per_file, code.normalized_per_file) == (False, True)


def test_the_landscapes_of_figure_2_are_kept_with_its_networks(images, monkeypatch):
    monkeypatch.setattr(landscapes, "AXIS", (-1.0, 0.0, 1.0))
    resnet = replace(ROWS["resnet-110"], depth=14)
    assert landscapes.shown(job(row=resnet))
    assert not landscapes.shown(job(row=resnet, seeds=(1,)))
    assert not landscapes.shown(job(row=resnet, scale=SCALES["small"]))
    assert not landscapes.shown(job())
    first, second = landscapes.around(resnet.build(10, TEXT, TOY), images)
    assert (first["labels"], second["labels"]) == ([images.y_test[2].item()], [images.y_test[13].item()])
    assert torch.tensor(first["loss"]).shape == (1, 3, 3)


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
