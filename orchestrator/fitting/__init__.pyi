from .admission import estimate_gain as estimate_gain
from .calibration import calibrate as calibrate
from .choice import choose as choose
from .intervals import mcnemar as mcnemar, mean_interval as mean_interval, wilson as wilson
from .label_issues import LabelIssues as LabelIssues, find_label_issues as find_label_issues
from .metrics import Answers as Answers, value_of as value_of
from .uncertainty import uncertainties as uncertainties
from .worth import Worth as Worth, member_worth as member_worth
