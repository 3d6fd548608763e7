from .config import Config as Config, compose as compose
from .finished import FinishedRun as FinishedRun, load as load, predict as predict
from .launching import launch as launch
from .plan import Plan as Plan, make_plan as make_plan
from .run import RunPaths as RunPaths, read_status as read_status
from .verification import explain as explain, verify as verify
