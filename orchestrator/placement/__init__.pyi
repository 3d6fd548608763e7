from .placing import (
    Measuring as Measuring,
    Placed as Placed,
    augmentation_line as augmentation_line,
    kept as kept,
    lacking as lacking,
    measure_rates as measure_rates,
    needs_of as needs_of,
    place as place,
)
