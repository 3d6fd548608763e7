"""Writes how sure each answer of a submission is, and compares that with what predictions give; in blocks.

Columns are `id` as the submission has it, in its order, `entropy` and `mutual_information` in nats, and `set`: names of
classes, the most probable first; null without prediction sets.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.combine import Combined, blocks, gather
from orchestrator.fitting import uncertainties
from orchestrator.submission.formats import Layout, Question, make_layout

if TYPE_CHECKING:
    import pyarrow as pa


def write_uncertainty(path: Path, question: Question, combined: Combined) -> None:
    """Writes the uncertainty of each answer to `question` as parquet."""
    # Imported here, since it takes a quarter of a second.
    from pyarrow.parquet import ParquetWriter

    layout = make_layout(question)
    with ParquetWriter(path, _schema()) as writer:
        for part in blocks(len(layout.order), len(question.classes) * len(combined.members)):
            writer.write_table(_rows(question, layout, combined, part))


def uncertainty_difference(path: Path, question: Question, combined: Combined) -> str | None:
    """Returns how the file differs from what `combined` gives, or None."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    layout, start = make_layout(question), 0
    try:
        with ParquetFile(path) as file:
            if file.schema_arrow != _schema() or file.metadata.num_rows != len(layout.order):
                return "other columns, or another number of rows"
            for group in range(file.num_row_groups):
                found = file.read_row_group(group)
                wanted = _rows(question, layout, combined, slice(start, start + len(found)))
                if not found.equals(wanted):
                    return f"{layout.ids[start]} or one of the {len(found)} images from there on"
                start += len(found)
    except (ArrowException, OSError) as error:
        return f"it cannot be read ({error})"
    return None


def _schema() -> "pa.Schema":
    import pyarrow as pa

    numbers = [(name, pa.float64()) for name in ("entropy", "mutual_information")]
    return pa.schema([("id", pa.string()), *numbers, ("set", pa.list_(pa.string()))])


def _rows(question: Question, layout: Layout, combined: Combined, part: slice) -> "pa.Table":
    import pyarrow as pa

    order, names = layout.order[part], [_text(name) for name in question.classes]
    members = [gather(member, order) for member in combined.members]
    found = uncertainties(combined.combination, gather(combined, order), members)
    columns = (
        [_text(each) for each in layout.ids[part]],
        [one.entropy for one in found],
        [one.mutual_information for one in found],
        [None if one.classes is None else [names[place] for place in one.classes] for one in found],
    )
    return pa.table(dict(zip(_schema().names, columns, strict=True)), _schema())


def _text(name: str) -> str:
    """Returns a name with bytes that are no text written out, like `\\udcff`."""
    return name.encode(errors="backslashreplace").decode()
