from .mlflow_store import DatasetInput as DatasetInput
from .models import OUTCOMES as OUTCOMES, Models as Models, save_pyfunc as save_pyfunc
from .params import ensemble_params as ensemble_params
from .probing import probe as probe
from .tracker import Ending as Ending, RunIdentity as RunIdentity, Tracker as Tracker
from .ui import find_target as find_target, open_ui as open_ui, serving as serving
