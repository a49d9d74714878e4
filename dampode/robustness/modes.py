"""The modes of a measured model: eval mode, and replicas that do not communicate. Afterwards all modes come back."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.fx import GraphModule
from torch.nn.parallel import DistributedDataParallel

from dampode._checks import require_instance

__all__ = ["eval_mode", "frozen", "is_training", "require_model"]


def require_model(model: nn.Module, name: str = "model") -> None:
    """Raise a TypeError unless the model is a module."""
    require_instance(model, nn.Module, name, "of an ExportedProgram take .module(), and wrap a function in a module")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[list[str]]:
    """Put a model into eval mode for a block of code, then restore the mode of each of its modules.

    Replicas of `DistributedDataParallel` do not communicate meanwhile, so that one process alone can measure.

    Yields:
        The names of the modules that were in training mode. An exported module has a single mode and is not among them.
    """
    require_model(model)
    modes = [(module, is_training(module)) for module in model.modules()]
    was_training = [name or "the model itself" for name, module in model.named_modules() if is_training(module)]
    if was_training and not _set_mode(model, False):
        was_training = []
    with _silent_replicas(model):
        try:
            yield was_training
        finally:
            for module, training in modes:
                if is_training(module) != training:
                    _set_mode(module, training)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter of a model need a gradient for a block of code, then restore it.

    A pass then keeps no input of a layer for the gradient of its weights, and costs less.
    """
    parameters = [p for p in model.parameters() if p.requires_grad and not p.is_inference()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def _silent_replicas(model: nn.Module) -> Iterator[None]:
    """Keep every `DistributedDataParallel` from exchanging gradients and buffers."""
    replicas = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    flags = [(replica.require_backward_grad_sync, replica.require_forward_param_sync) for replica in replicas]
    for replica in replicas:
        replica.require_backward_grad_sync = replica.require_forward_param_sync = False
    try:
        yield
    finally:
        for replica, (backward, forward) in zip(replicas, flags, strict=True):
            replica.require_backward_grad_sync, replica.require_forward_param_sync = backward, forward


def is_training(module: nn.Module) -> bool:
    """Whether a module is in training mode. A frozen TorchScript module has no mode."""
    return bool(getattr(module, "training", False))


def _set_mode(module: nn.Module, training: bool) -> bool:
    """Set the mode of a module and its parts by its own method; False if the module is an exported module."""
    try:
        module.train(training)
    except NotImplementedError:  # of an exported module; its flag has no effect
        module.training = training
        changed = [_set_mode(child, training) for child in module.children()]
        return any(changed) and not isinstance(module, GraphModule)
    return True
