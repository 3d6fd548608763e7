from .admission import estimate_gain as estimate_gain
from .choice import choose as choose
from .intervals import mcnemar as mcnemar, mean_interval as mean_interval, wilson as wilson
