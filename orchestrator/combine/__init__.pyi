from .absent import (
    LEFT_OUT as LEFT_OUT,
    STUDENT as STUDENT,
    Missing as Missing,
    allowed_missing as allowed_missing,
    check_min_members as check_min_members,
    find_missing as find_missing,
    in_words as in_words,
    left_out as left_out,
    weights_of as weights_of,
    without as without,
)
from .averaging import (
    OF_LOGS as OF_LOGS,
    Combination as Combination,
    Combined as Combined,
    Stacking as Stacking,
    combine_block as combine_block,
    equal as equal,
    mean as mean,
    sum_members as sum_members,
)
from .calibration import (
    Calibration as Calibration,
    PredictionSets as PredictionSets,
    corrected as corrected,
    place_scores as place_scores,
)
from .fit import (
    LEAST_IMAGES as LEAST_IMAGES,
    Fit as Fit,
    Interval as Interval,
    in_units as in_units,
    loss_in_units as loss_in_units,
    too_few as too_few,
)
from .held_out import fitting_split as fitting_split, no_sets as no_sets
from .out_of_fold import OutOfFold as OutOfFold, regrouped as regrouped
from .outside import check_outside as check_outside, store_outside as store_outside
from .predictions import (
    Expected as Expected,
    Flaw as Flaw,
    Invalid as Invalid,
    MemberPredictions as MemberPredictions,
    Source as Source,
    check_predictions as check_predictions,
    open_predictions as open_predictions,
)
from .rows import (
    SMALLEST_PROBABILITY as SMALLEST_PROBABILITY,
    Block as Block,
    ClassProbability as ClassProbability,
    Labels as Labels,
    Rows as Rows,
    blocks as blocks,
    gather as gather,
    ranks as ranks,
    top_classes as top_classes,
)
