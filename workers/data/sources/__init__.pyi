from .csv import column_of_train as column_of_train
from .csv_table import read_values as read_values
from .ids import ids_of_rows as ids_of_rows, spellings as spellings
from .listing import (
    KeptContents as KeptContents,
    LeftOut as LeftOut,
    Listing as Listing,
    Loader as Loader,
    Row as Row,
    Rows as Rows,
)
from .registry import Survey as Survey, open_listing as open_listing, survey as survey
from .relabel import LEFT_OUT as LEFT_OUT, Relabelling as Relabelling, read_relabelling as read_relabelling
