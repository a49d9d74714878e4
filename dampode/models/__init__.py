"""The paper's networks: pixels in [0, 1] in, logits out."""

from dampode.models.preresnet import PreResNet
from dampode.models.variants import cnn, coefficients, in_resnet, lambda_in_resnet, resnet

__all__ = ["PreResNet", "cnn", "coefficients", "in_resnet", "lambda_in_resnet", "resnet"]
