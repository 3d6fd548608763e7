"""Fresh weights for this project's own nets, as the `init` group says."""

import torch
from torch import nn

from workers.models.highway import HighwayConv
from workers.models.lenet import PartlyConnected
from workers.settings import InitScheme, InitSettings

_DRAWN = (nn.Conv2d, nn.Linear, PartlyConnected)
# Negative, so that a fresh highway layer mostly passes its input on; the paper's nets of ten layers start at -1 to -3.
_GATE_BIAS = -2.0


def draw(model: nn.Module, init: InitSettings, generator: torch.Generator) -> None:
    """Draws all weights: He et al. 2015 (fan-in, gain √2), or N(0, std²); `layer_std` overrides either for a layer.

    Both draw the last layer from N(0, std²), because logits that start near zero learn the superset's 40 classes sooner
    (loss 3.36 against 3.45 after three epochs, docs/experiments.md).
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, _DRAWN)]
    for name, module in layers:
        std = init.std
        if init.scheme is InitScheme.he and name != layers[-1][0]:
            gain = 1.0 if name == "bottleneck" else 2.0  # 2 makes up for a ReLU, which the bottleneck lacks
            fan_in = module.fan_in if isinstance(module, PartlyConnected) else module.weight[0].numel()
            std = (gain / fan_in) ** 0.5
        std = init.layer_std.get(name, std)
        assert module.bias is not None
        with torch.no_grad():
            module.weight.normal_(0.0, std, generator=generator)
            module.bias.fill_(init.bias if name in init.biased else 0.0)
    for part in model.modules():
        if isinstance(part, HighwayConv):
            assert part.gate.bias is not None
            nn.init.constant_(part.gate.bias, _GATE_BIAS)
