"""Two processes on one machine against one process that computes the same two half batches."""

import subprocess
import sys

import torch
from torch import nn

from dampode.training import Recipe, fit, load_checkpoint
from tests.helpers import ROOT
from tests.helpers.training import Interrupt, net, tiny

RECIPE = Recipe(epochs=3, batch_size=16, micro_batches=2)
RUN = """
import sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
import torch
from tests.training.test_processes import RECIPE, drawing, model
from tests.helpers.training import tiny, weights
from dampode import training
from dampode.training.processes import is_main
network, out = model(), Path(sys.argv[1])
history = training.fit(network, tiny(), RECIPE, seed=3, checkpoint=out / "run.pt", checkpoint_every=2, logs=out)
name = "main.pt" if is_main() else "other.pt"
torch.save([network.state_dict(), history.loss, history.accuracy], out / name)

whole, stopped, resumed = drawing(-1), drawing(5), drawing(-1)  # three steps an epoch
torch.manual_seed(is_main())
training.fit(whole, tiny(), RECIPE, checkpoint=out / "whole.pt")
torch.manual_seed(is_main())
try:
    training.fit(stopped, tiny(), RECIPE, checkpoint=out / "stopped.pt")
except KeyboardInterrupt:
    pass
assert training.load_checkpoint(out / "stopped.pt")["position"]["step"] == 0
torch.manual_seed(99)
training.fit(resumed, tiny(), RECIPE, checkpoint=out / "stopped.pt", resume=True)
assert torch.equal(weights(resumed), weights(whole))
assert not torch.equal(weights(resumed), weights(stopped))
"""


def model():
    """With batch norm, whose statistics are those of a half batch; without dropout, which each process draws anew."""
    return nn.Sequential(*(module for module in net() if not isinstance(module, nn.Dropout)))


def drawing(calls):
    """With dropout, and stopped at a call."""
    return nn.Sequential(Interrupt(calls), net())


def test_two_processes_are_one_that_accumulates(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(tmp_path / "run.py"), str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    alone = model()
    start = [p.clone() for p in alone.parameters()]
    history = fit(alone, tiny(), RECIPE, seed=3)
    main, loss, accuracy = torch.load(tmp_path / "main.pt")
    other, *_ = torch.load(tmp_path / "other.pt")
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(main[name], parameter.detach(), rtol=0, atol=1e-6)
        torch.testing.assert_close(main[name], other[name], rtol=0, atol=0)
    assert max((p - q).abs().max().item() for p, q in zip(start, alone.parameters(), strict=True)) > 1e-2
    torch.testing.assert_close(torch.tensor(loss), torch.tensor(history.loss))
    assert accuracy == history.accuracy
    state = load_checkpoint(tmp_path / "run.pt")  # written by the first process, to be resumed by any number
    assert all(torch.equal(state["model"][name], main[name]) for name in main)
    resumed = model()
    assert fit(resumed, tiny(), RECIPE, seed=3, checkpoint=tmp_path / "run.pt", resume=True).loss == loss
    assert (tmp_path / "log.csv").read_text().count("\n") == 4
    whole = model()  # and it matters: one batch norm over the whole batch gives other weights
    fit(whole, tiny(), Recipe(epochs=3, batch_size=16), seed=3)
    assert max((main[n] - p).abs().max().item() for n, p in whole.named_parameters()) > 1e-3
