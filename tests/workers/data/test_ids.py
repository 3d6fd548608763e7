"""Two lines of a person's file that mean the same image are refused: one of them would be lost."""

import pytest

from workers.data.ids import ids_of_rows
from workers.errors import DataError

ROWS = ("cat/0.png", "cat/1.png", "dog/0.png")


@pytest.mark.parametrize("other", ["train/cat/1.png", "cat\\1.png"])
def test_two_spellings_of_one_path_are_refused(other):
    for ids in ([ROWS[1], other], [other, ROWS[1]], [ROWS[0], other, ROWS[1]]):
        with pytest.raises(DataError, match="another line names the same image"):
            ids_of_rows(ROWS, ids)
    assert ids_of_rows(ROWS, [other]) == {ROWS[1]: other}
