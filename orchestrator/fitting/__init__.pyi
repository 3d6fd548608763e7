from .choice import choose as choose
from .intervals import (
    mcnemar as mcnemar,
    mean_interval as mean_interval,
    resampled as resampled,
    wilson as wilson,
)
from .metrics import (
    Answers as Answers,
    image_losses as image_losses,
    loss as loss,
    read_answers as read_answers,
    value as value,
)
