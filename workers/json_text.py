"""JSON from files that another may have written: whatever is wrong with it is a ValueError."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value that `text` stands for.

    Raises:
        ValueError: it is no JSON, or is nested so deeply that Python's parser gives up.
    """
    try:
        return json.loads(text)
    except RecursionError:
        # A thousand brackets make one; it is no ValueError by itself, and would end as an internal error.
        raise ValueError("nested too deeply") from None
