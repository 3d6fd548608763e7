from .choice import choose as choose
from .intervals import mcnemar as mcnemar, mean_interval as mean_interval, wilson as wilson
from .worth import Worth as Worth, member_worth as member_worth
