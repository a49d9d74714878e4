"""An ensemble of classifiers as one classifier, Sec. 4.6."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dampode._checks import require_instance
from dampode.robustness.modes import is_training, require_model

__all__ = ["Combine", "Ensemble", "combined"]

Combine = Literal["softmax", "logits", "votes"]
"""How the logits of the members are combined, see `combined`."""


def combined(logits: Tensor, combine: Combine = "softmax") -> Tensor:
    """Scores of an ensemble from the logits z_m of its M members.

    - softmax: log (1/M) Σ_m softmax(z_m), the log of the mean probability
    - logits: (1/M) Σ_m z_m
    - votes: log (v_k + 1) / (M + K), where v_k members have their largest logit at class k. The 1 keeps the score of
      a class without votes finite. If classes tie, argmax takes the lowest.

    Each is valid input of a cross entropy. Votes are constant almost everywhere, so they have no useful gradient.

    Args:
        logits: z, (M, N, K).
        combine: "softmax", "logits" or "votes".

    Returns:
        Scores, (N, K).

    Source: Yang et al. 2020, Sec. 4.6.
    """
    members, _, classes = logits.shape
    if combine == "logits":
        return logits.mean(0)
    if combine == "votes":
        votes = F.one_hot(logits.argmax(-1), classes).sum(0).to(logits.dtype)
        return ((votes + 1) / (members + classes)).log()
    return logits.log_softmax(-1).logsumexp(0) - math.log(members)


class Ensemble(nn.Module):
    """A classifier made of classifiers: their logits are `combined`.

    It can be attacked and evaluated like any model. With votes it has no useful gradient, and a forward pass that needs
    one is refused. Attack the softmax ensemble of the same members instead, and classify the result by votes.

    Args:
        members: a list or tuple of classifiers of pixels with the same classes, on one device. Each must give logits,
            not probabilities; attacks and `evaluate` warn about probabilities. If all members are in eval mode, so is
            the ensemble.
        combine: "softmax", "logits" or "votes".

    Raises:
        ValueError: there are no members, they are on several devices, or ``combine`` is unknown. The forward pass
            raises it if members have different classes, or if votes need a gradient.
        TypeError: members is not a list or tuple of modules.
    """

    def __init__(self, members: Sequence[nn.Module], combine: Combine = "softmax") -> None:
        super().__init__()
        require_instance(members, (list, tuple), "members", "give one model as [model]")
        if not members:
            raise ValueError("an ensemble needs at least one member, got none")
        for member in members:
            require_model(member, "a member")
        _require_combine(combine)
        self.members = nn.ModuleList(members)
        self.combine: Combine = combine
        if not any(is_training(module) for member in members for module in member.modules()):
            self.eval()
        devices = {str(tensor.device) for tensor in [*self.parameters(), *self.buffers()]}
        if len(devices) > 1:
            raise ValueError(f"members must be on one device, got {', '.join(sorted(devices))}; move them with .to")

    def forward(self, x: Tensor) -> Tensor:
        """Scores, (N, K), of pixels (N, C, H, W)."""
        if self.combine == "votes" and x.requires_grad and torch.is_grad_enabled():
            raise ValueError('votes have no gradient: attack Ensemble(members, "softmax"), and classify the result')
        return combined(self.logits(x), self.combine)

    def logits(self, x: Tensor) -> Tensor:
        """The members' logits, (M, N, K), of pixels (N, C, H, W)."""
        outputs = [member(x) for member in self.members]
        shapes = {tuple(output.shape) for output in outputs}
        if len(shapes) > 1:
            raise ValueError(f"members must have the same classes, got logits of shapes {sorted(shapes)}")
        return torch.stack(outputs)

    def extra_repr(self) -> str:
        """How the members are combined."""
        return f"combine={self.combine!r}"


def _require_combine(combine: str) -> None:
    """Raise unless ``combine`` is one of the ways to combine."""
    if combine not in get_args(Combine):
        raise ValueError(f'combine must be "softmax", "logits" or "votes", got {combine!r}')
