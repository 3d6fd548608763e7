from .alexnet import AlexNet as AlexNet
from .builders import INCEPTIONS as INCEPTIONS, arguments as arguments
from .construction import build as build, initialise as initialise, place as place
from .geometry import POOL_STRIDE as POOL_STRIDE, Conv as Conv
from .layers import HEAD as HEAD, MODEL_NAMES as MODEL_NAMES, Outline as Outline
from .lrn import LocalResponseNorm as LocalResponseNorm
from .outlines import check_name as check_name, outline as outline
from .own_code import code_of as code_of, read_sources as read_sources
from .parts import (
    beside as beside,
    fill as fill,
    parts_of as parts_of,
    saved_parts_of as saved_parts_of,
    whole_shape as whole_shape,
)
