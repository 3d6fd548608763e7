from .preparation import summary as summary, unseen_classes as unseen_classes, watching as watching
from .run import Display as Display
