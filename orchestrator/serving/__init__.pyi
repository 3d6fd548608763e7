from .application import Limits as Limits, application as application
from .server import serve as serve
