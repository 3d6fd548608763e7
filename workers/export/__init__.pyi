from .forms import export_graphs as export_graphs, predict_program as predict_program
from .graph import Combining as Combining
