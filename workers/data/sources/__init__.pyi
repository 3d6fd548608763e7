from .classes import Naming as Naming
from .csv import column_of_train as column_of_train
from .csv_table import read_table as read_table, read_values as read_values
from .files import is_named_as_image as is_named_as_image, may_be_image as may_be_image
from .listing import (
    KeptContents as KeptContents,
    LeftOut as LeftOut,
    Listing as Listing,
    Loader as Loader,
    Row as Row,
    Rows as Rows,
)
from .registry import open_listing as open_listing
from .tree import LocalTree as LocalTree, read_text as read_text, tree_at as tree_at, walk as walk
