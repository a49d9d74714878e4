"""A figure is drawn once all of its networks have been run."""

import torch

from benchmarks.paper.plan.protocols import SMALL
from benchmarks.paper.plan.targets import cells_of
from benchmarks.paper.render import figures
from benchmarks.paper.render.page import figure_list
from benchmarks.paper.run.measure import LANDSCAPE_AXIS
from tests.paper.render.made_up import made_up


def test_figures_are_drawn_once_their_networks_are_there(tmp_path):
    runs = [made_up(cell.row, (0,), coefficients=[0.1] * 51) for cell in cells_of("figure1")]
    assert figures.drawable(1, runs, "text")
    assert not figures.drawable(1, runs, "code")
    assert not figures.drawable(1, runs[:1], "text")
    assert not figures.drawable(1, [made_up("in_resnet-110", scale=SMALL), runs[1]], "text")
    figures.draw(1, runs, "text", tmp_path / "figure1.png")
    ensembles = [made_up(n, (0, 1) if e else (0,), d, 0.95 if e else 0.9) for n, d, e in cells_of("figure8")]
    assert figures.drawable(8, ensembles, "text")
    figures.draw(8, ensembles, "text", tmp_path / "figure8.png")
    rng = torch.Generator().manual_seed(0)
    grid = (1, len(LANDSCAPE_AXIS), len(LANDSCAPE_AXIS))
    around = {
        "along": LANDSCAPE_AXIS,
        "across": LANDSCAPE_AXIS,
        "labels": [3],
        "loss": torch.rand(grid, generator=rng).tolist(),
        "prediction": torch.ones(grid, dtype=torch.int64).tolist(),
    }
    pair = [made_up(cell.row) | {"landscapes": [around, around]} for cell in cells_of("figure2")]
    assert figures.drawable(2, pair, "text")
    assert not figures.drawable(2, [pair[0], made_up("in_resnet-110")], "text")
    figures.draw(2, pair, "text", tmp_path / "figure2.png")
    assert all(path.stat().st_size > 5000 for path in tmp_path.iterdir())
    text = figure_list(runs)
    assert "![Figure 1](paper_figure1_text.png)" in text
    assert text.count("not drawn") == 7
