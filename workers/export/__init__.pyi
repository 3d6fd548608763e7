from .forms import Form as Form, export_graphs as export_graphs, missing_packages as missing_packages
from .graph import Combining as Combining
