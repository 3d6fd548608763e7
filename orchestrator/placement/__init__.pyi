from .placing import Measuring as Measuring, Placed as Placed, kept as kept, lacking as lacking, place as place
from .rates import measure_rates as measure_rates
