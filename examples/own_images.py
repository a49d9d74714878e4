"""Train on your own folder of images
==================================

Images lie in a folder as ``train/CLASS/*.png`` and ``test/CLASS/*.png``, one subfolder per class. ``data.load``
reads them, ``training.fit`` trains a network, and ``models.save`` writes it to a file::

    python examples/own_images.py --folder my_images --size 32

Without ``--folder`` the script first writes scikit-learn's digits as PNG files, so that it has something to read.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import torch
import tyro
from torchvision.utils import save_image

from dampode import data, models, robustness, training


@dataclass(frozen=True)
class Args:
    """Train on a folder of images."""

    folder: Path | None = None
    """folder with train/CLASS/*.png and test/CLASS/*.png"""
    size: int | None = None
    """shorter side that images are resized to, for images of several sizes"""
    epochs: int = 6
    """passes over the training images"""
    out: Path = Path("runs/own_images")
    """folder of the trained network and the figure"""


args = tyro.cli(Args, description=__doc__)
args.out.mkdir(parents=True, exist_ok=True)

# %%
# The folder
# ----------
#
# This is what your folder looks like: the name of a subfolder is the name of its class.


def write_digits(folder: Path) -> None:
    """Write the digits as one PNG file per image."""
    digits = data.load("digits")
    for part, images, labels in (("train", digits.x_train, digits.y_train), ("test", digits.x_test, digits.y_test)):
        for number, (image, label) in enumerate(zip(data.pixels(images), labels.tolist(), strict=True)):
            path = folder / part / f"digit_{label}" / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(image, path)


folder = args.folder
if folder is None:
    folder = Path(mkdtemp())
    write_digits(folder)
for path in sorted(folder.glob("*/*"))[:3]:
    print(f"{path.relative_to(folder)}: {len(list(path.iterdir()))} images")

# %%
# Read, train, save
# -----------------
#
# All images lie in memory as bytes. For images that do not fit, see "Images that do not fit into memory" on the page
# "Training". Images of a folder are not augmented unless the recipe says so, because a mirrored digit is no digit.

images = data.load(folder) if args.size is None else data.load(folder, size=args.size)
mean, std = images.statistics()
print(f"{len(images.x_train)} training images of shape {tuple(images.x_train.shape[1:])}, {images.num_classes} classes")

torch.manual_seed(0)
model = models.in_resnet(14, images.num_classes, width=8, in_channels=images.channels, mean=mean, std=std)
recipe = training.Recipe(epochs=args.epochs, batch_size=64, augmentation=data.Augmentation(pad=1, flip=False))
history = training.fit(model, images, recipe)
models.save(model, args.out / "network.safetensors")

x, y = data.pixels(images.x_test), images.y_test
accuracy = robustness.accuracy(model.eval(), x, y)
print(f"accuracy on {len(x)} test images: {100 * accuracy:.1f} %")
assert accuracy > 2 / images.num_classes

# %%
# What the network confuses
# -------------------------
#
# Rows are true classes, columns are what the network says.

with torch.no_grad():
    said = model(x).argmax(1)
table = torch.zeros(images.num_classes, images.num_classes).index_put_((y, said), torch.ones(len(y)), accumulate=True)
names = sorted(path.name for path in (folder / "train").iterdir())
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
left.plot(range(1, len(history.loss) + 1), history.loss, "o-")
left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
right.imshow(table, cmap="Blues")
for row in range(images.num_classes):
    for column in range(images.num_classes):
        if table[row, column]:
            right.text(column, row, f"{table[row, column]:.0f}", ha="center", va="center", fontsize=7)
right.set(xlabel="predicted", ylabel="true class", yticks=range(len(names)), xticks=range(len(names)))
right.set_yticklabels(names)
figure.savefig(args.out / "confusion.png", dpi=150)
