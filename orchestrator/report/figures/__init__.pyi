from .curves import lines_chart as lines_chart
from .drawing import PALETTE as PALETTE, Drawing as Drawing
from .errors import Bar as Bar, member_errors as member_errors
from .kernels import conv1_kernels as conv1_kernels
from .matrices import Cell as Cell, confusion_matrix as confusion_matrix, pairs_chart as pairs_chart
from .reliability import reliability_diagram as reliability_diagram
from .schedule import Kind as Kind, Stretch as Stretch, schedule_chart as schedule_chart
