from .csv import column_of_train as column_of_train
from .listing import (
    KeptContents as KeptContents,
    LeftOut as LeftOut,
    Listing as Listing,
    Loader as Loader,
    Row as Row,
    Rows as Rows,
)
from .registry import Survey as Survey, open_listing as open_listing, survey as survey
from .values import read_values as read_values, values_of as values_of
