from .budget import ends_at as ends_at
from .driver import Driver as Driver
from .jobs import Work as Work, normaliser as normaliser
from .signals import Interrupts as Interrupts, OutOfTime as OutOfTime
from .stop import ask_to_stop as ask_to_stop, obeying as obeying
