from .listing import (
    KeptContents as KeptContents,
    LeftOut as LeftOut,
    Listing as Listing,
    Loader as Loader,
    Row as Row,
    Rows as Rows,
)
from .registry import Survey as Survey, open_listing as open_listing, survey as survey
