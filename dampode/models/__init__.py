"""The paper's networks: pixels in [0, 1] in, logits out."""

from dampode.models.ablation import AblationNetworks, ablation_networks
from dampode.models.batch_norm_folding import ChannelAffine, fold_batch_norm
from dampode.models.contractive import contractive_norm, contractive_resnet
from dampode.models.damped_residuals import Residual, damp, residual_of
from dampode.models.damping_coefficients import coefficients
from dampode.models.effective_depth import WithoutBlock, accuracy_without_blocks, block_shares, effective_depth
from dampode.models.folding import fold
from dampode.models.preresnet import PreResNet
from dampode.models.resnext import ResNeXt29
from dampode.models.unrolled import UnrolledBlock, unrolled
from dampode.models.variants import (
    cnn,
    in_resnet,
    in_resnet_gating,
    in_resnet_gating_sig,
    in_resnet_sig,
    in_resnext29,
    lambda_in_resnet,
    lambda_in_resnext29,
    resnet,
    resnext29,
)
from dampode.models.weights_file import architecture, load, save

__all__ = [
    "AblationNetworks",
    "ChannelAffine",
    "PreResNet",
    "ResNeXt29",
    "Residual",
    "UnrolledBlock",
    "WithoutBlock",
    "ablation_networks",
    "accuracy_without_blocks",
    "architecture",
    "block_shares",
    "cnn",
    "coefficients",
    "contractive_norm",
    "contractive_resnet",
    "damp",
    "effective_depth",
    "fold",
    "fold_batch_norm",
    "in_resnet",
    "in_resnet_gating",
    "in_resnet_gating_sig",
    "in_resnet_sig",
    "in_resnext29",
    "lambda_in_resnet",
    "lambda_in_resnext29",
    "load",
    "residual_of",
    "resnet",
    "resnext29",
    "save",
    "unrolled",
]
