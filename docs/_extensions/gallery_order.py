"""The order of the gallery: layers and networks first, then solves."""

from pathlib import Path

__all__ = ["key"]

ORDER = [
    "first_damped_layer",
    "from_resnet_to_cnn",
    "own_images",
    "damp_a_torchvision_resnet",
    "robustness_report",
    "robustness_of_a_timm_model",
    "stability_of_a_trained_network",
    "equilibrium_block",
    "export_a_network",
    "ode_demo",
    "stiff_dynamics_from_data",
    "bouncing_and_spiking",
    "pharmacokinetics",
    "irregular_series",
    "latent_ode",
    "continuous_normalizing_flow",
]


def key(script: str) -> int:
    """The place of a script; a script without a place is an error."""
    return ORDER.index(Path(script).stem)
