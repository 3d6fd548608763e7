from .forms import FORMS as FORMS, prediction_json as prediction_json, prediction_lines as prediction_lines
from .inputs import find_images as find_images
from .stream import Options as Options, predict as predict
