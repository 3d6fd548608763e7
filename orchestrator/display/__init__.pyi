from .preparation import remarks_on as remarks_on, summary as summary, watching as watching
from .run import Display as Display
