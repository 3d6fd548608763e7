from .choice import largest_member as largest_member
from .placing import (
    Measuring as Measuring,
    Placed as Placed,
    augmentation_line as augmentation_line,
    kept as kept,
    lacking as lacking,
    measure_rates as measure_rates,
    place as place,
)
