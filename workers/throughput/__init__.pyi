from .measure import drawing_seconds as drawing_seconds, images_per_second as images_per_second
from .process import Request as Request
