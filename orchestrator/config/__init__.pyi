from .catalogue import (
    group_choices as group_choices,
    group_keys as group_keys,
    group_lines as group_lines,
    overview_lines as overview_lines,
)
from .composition import compose as compose, reopen as reopen
from .overrides import quoted as quoted
from .schema import (
    FITTED as FITTED,
    GROUPS as GROUPS,
    TARGET as TARGET,
    AdmitConfig as AdmitConfig,
    Calibrator as Calibrator,
    ClusterConfig as ClusterConfig,
    CombineConfig as CombineConfig,
    CombineMethod as CombineMethod,
    Compile as Compile,
    Config as Config,
    FoldsConfig as FoldsConfig,
    Kernels as Kernels,
    Metric as Metric,
    Precision as Precision,
    SetScore as SetScore,
    SubmissionConfig as SubmissionConfig,
    SubmissionFormat as SubmissionFormat,
    TrackingConfig as TrackingConfig,
    default_run_dir as default_run_dir,
    metric_of as metric_of,
)
from .structure import choices as choices, overlay as overlay, shown as shown
from .words import OWN_IMAGES as OWN_IMAGES, stored_for as stored_for
