from .preparation import summary as summary, watching as watching
from .run import Display as Display
