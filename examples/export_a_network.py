"""Export to torch.export and ONNX
===============================

A network of damped layers with fixed steps is one graph of tensor operations. So ``torch.export`` captures it, with
a batch of any size, and ``torch.onnx`` writes it as a file for other runtimes. Constant damping costs nothing after
training: ``models.fold`` first moves it into the weights.

ONNX needs two more packages: ``pip install onnx onnxscript``.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch.export import Dim

from dampode import data, models, training

digits = data.load("digits")
mean, std = digits.statistics()
torch.manual_seed(0)
model = models.in_resnet(14, width=4, in_channels=1, mean=mean, std=std)
training.fit(model, digits, training.Recipe(epochs=2, batch_size=64))
x = data.pixels(digits.x_test)[:32]
with torch.no_grad():
    expected = model.eval()(x)

# %%
# torch.export
# ------------
#
# The batch size is a symbol, so one program serves every batch.

batch = {"x": {0: Dim("batch")}}
program = torch.export.export(model, (x,), dynamic_shapes=batch)
with torch.no_grad():
    torch.testing.assert_close(program.module()(x), expected)
    torch.testing.assert_close(program.module()(x[:5]), expected[:5], rtol=1e-4, atol=1e-5)
print(f"the exported program has {len(program.graph.nodes)} nodes")

# %%
# ONNX
# ----
#
# The folded network is a plain pre-activation ResNet with the same outputs up to rounding. ONNX's own reference
# implementation runs the file here; any other runtime reads it too.

folded = models.fold(model).eval()
Path("runs").mkdir(exist_ok=True)
outputs = {}
for name, network in (("In-ResNet", model), ("folded In-ResNet", folded)):
    path = f"runs/{name.replace(' ', '_')}.onnx"
    torch.onnx.export(network, (x,), path, dynamo=True, dynamic_shapes=batch, verbose=False)
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    (found,) = ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: x.numpy()})
    outputs[name] = torch.from_numpy(found)
    print(f"{name}: {len(graph.graph.node)} nodes, largest difference {(outputs[name] - expected).abs().max():.1e}")
    torch.testing.assert_close(outputs[name], expected, rtol=1e-3, atol=1e-3)

# %%
# The logits of the files against the logits of the network in PyTorch:

figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained", sharey=True)
for ax, (name, logits) in zip(axes, outputs.items(), strict=True):
    ax.axline((0, 0), slope=1, color="0.7", lw=1)
    ax.plot(expected.flatten(), logits.flatten(), ".", ms=4)
    ax.set(title=f"{name}, ONNX", xlabel="logits in PyTorch")
axes[0].set_ylabel("logits of the file")
figure.savefig("runs/export_a_network.png", dpi=150)
