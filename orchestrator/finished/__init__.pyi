from .comparison import compare_runs as compare_runs, comparison_lines as comparison_lines
from .exporting import export as export, parse_forms as parse_forms
from .loading import FinishedRun as FinishedRun, load as load
from .logged import log_models as log_models
from .prediction import (
    Asked as Asked,
    predict as predict,
    predict_as as predict_as,
    prediction_lines as prediction_lines,
)
from .server import serve as serve
