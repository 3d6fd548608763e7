from .evidence import Evidence as Evidence, Valued as Valued
from .review import write_review as write_review
from .scores import macro_averages as macro_averages, score as score
from .sections import Fact as Fact
from .table import (
    Caveats as Caveats,
    SplitScores as SplitScores,
    percent as percent,
    points as points,
    score_split as score_split,
    table_text as table_text,
)
from .worth import drop_note as drop_note, metric_told as metric_told
from .write import load_libraries as load_libraries, scores_json as scores_json, write_report as write_report
