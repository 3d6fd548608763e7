from .placing import (
    Measuring as Measuring,
    Placed as Placed,
    kept as kept,
    lacking as lacking,
    measure_rates as measure_rates,
    place as place,
)
