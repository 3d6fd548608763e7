"""Sample submissions as programs write them: the file has their header, ids and order, or the template is refused."""

import csv
import io
from dataclasses import replace

from asked_rows import CLASSES, NUM_ROWS, draw, make_question
from fuzzing import fuzzed
from hypothesis import assume, given, strategies as st

from orchestrator.config.schema import SubmissionFormat
from orchestrator.submission.formats import file_lines, make_layout, read_template, text_of
from workers.errors import ConfigError

CELL = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\ufeff"), max_size=6)


@given(data=st.data(), kind=st.sampled_from((SubmissionFormat.labels, SubmissionFormat.probabilities)))
@fuzzed(400)
def test_template_gives_header_ids_and_order_or_is_refused(data, kind):
    question = make_question(kind)
    ids = data.draw(st.permutations(question.rows))
    spelling = data.draw(st.sampled_from(("path", "stem", "wrong", "short", "twice")))
    if spelling == "stem":
        ids = [name.rpartition(".")[0] for name in ids]
    ids = {"wrong": [*ids[:-1], data.draw(CELL)], "short": ids[:-1], "twice": [*ids, ids[0]]}.get(spelling, ids)
    columns = data.draw(st.permutations(CLASSES)) if kind is SubmissionFormat.probabilities else [data.draw(CELL)]
    header = [data.draw(CELL), *columns]
    buffer = io.StringIO()
    end = data.draw(st.sampled_from(("\n", "\r\n")))
    quoting = data.draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    csv.writer(buffer, lineterminator=end, quoting=quoting).writerows(
        [header, *([image_id, *("0" for _ in columns)] for image_id in ids)]
    )
    # `csv` does not quote a carriage return at a line's end, where it is read as part of the end.
    assume(next(csv.reader(io.StringIO(buffer.getvalue(), newline=""))) == header)
    text, encoding = buffer.getvalue(), data.draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16")))
    try:
        template = read_template(text_of(text.encode(encoding), "sample.csv"), "sample.csv")
        asked = replace(question, template=template)
        lines = "".join(file_lines(asked, make_layout(asked), draw()))
    except ConfigError:
        strange = any(not cell.isprintable() or not cell for cell in header) or len({*header}) < len(header)
        assert spelling not in ("path", "stem") or strange
        return
    assert spelling in ("path", "stem")
    written = list(csv.reader(io.StringIO(lines, newline="")))
    assert written[0] == header
    assert [line[0] for line in written[1:]] == list(ids)
    assert len(written) == NUM_ROWS + 1
