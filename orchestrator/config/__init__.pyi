from .composition import compose as compose, reopen as reopen
from .schema import (
    TARGET as TARGET,
    ClusterConfig as ClusterConfig,
    CombineConfig as CombineConfig,
    CombineMethod as CombineMethod,
    Config as Config,
    Precision as Precision,
    SubmissionConfig as SubmissionConfig,
    SubmissionFormat as SubmissionFormat,
    TrackingConfig as TrackingConfig,
    default_run_dir as default_run_dir,
)
from .structure import choices as choices, overlay as overlay, shown as shown
from .words import OWN_IMAGES as OWN_IMAGES, stored_for as stored_for
