from .classes import Cell as Cell, confusion_matrix as confusion_matrix
from .curves import learning_curves as learning_curves
from .drawing import PALETTE as PALETTE, Drawing as Drawing
from .errors import Bar as Bar, member_errors as member_errors
from .kernels import conv1_kernels as conv1_kernels
from .reliability import reliability_diagram as reliability_diagram
