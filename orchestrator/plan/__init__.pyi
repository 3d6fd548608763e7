from .admission import recipes as recipes
from .budget import (
    choose_first as choose_first,
    needed_by as needed_by,
    predicting_s as predicting_s,
    usable_s as usable_s,
)
from .build import make_plan as make_plan, used_datasets as used_datasets
from .checks import remarks as remarks
from .diff import ChangeKind as ChangeKind, affected as affected, compare as compare
from .halving import choose_best as choose_best
from .model import (
    Job as Job,
    OutsideFile as OutsideFile,
    Plan as Plan,
    PlannedDataset as PlannedDataset,
    PredictJob as PredictJob,
    Stage as Stage,
    StageRef as StageRef,
    TrainJob as TrainJob,
    changed as changed,
    leaves as leaves,
    normalised_as as normalised_as,
    plain as plain,
    plan_from_json as plan_from_json,
    plan_to_json as plan_to_json,
)
from .report import disk_estimate as disk_estimate, make_report as make_report
from .schedule import estimate as estimate, multiply_adds as multiply_adds, ready as ready
from .widths import (
    PATIENCE_S as PATIENCE_S,
    Widths as Widths,
    candidates as candidates,
    choose as choose,
    estimate_moldable as estimate_moldable,
)
