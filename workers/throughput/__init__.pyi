from .measure import images_per_second as images_per_second
from .process import Request as Request
