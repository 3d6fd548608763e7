from .formats import Layout as Layout, Question as Question, file_lines as file_lines, make_layout as make_layout
from .manifest import Manifest as Manifest, find_manifest as find_manifest, read_manifest as read_manifest
from .rebuilding import asked_by as asked_by, first_difference as first_difference, line_number as line_number
from .uncertainty import uncertainty_difference as uncertainty_difference
from .write import ask as ask, read_named as read_named, write_submission as write_submission
