"""Parameters and multiply-adds, computed from the geometry."""

from workers.models.geometry import Counts, geometry
from workers.settings import ModelSettings


def count(model: ModelSettings, num_classes: int) -> Counts:
    """Counts weights and biases, and the multiply-adds of one image's forward pass."""
    layers = geometry(model, num_classes)
    parameters = sum(conv.num_weights + conv.out_channels for conv in layers.convs)
    parameters += sum(linear.num_weights + linear.out_features for linear in layers.linears)
    macs = sum(conv.num_macs for conv in layers.convs) + sum(linear.num_weights for linear in layers.linears)
    return Counts(parameters, macs)
