from .evidence import Evidence as Evidence
from .review import review_json as review_json, write_review as write_review
from .sections import Fact as Fact
from .table import (
    Caveats as Caveats,
    SplitScores as SplitScores,
    score_split as score_split,
    scores_json as scores_json,
    table_text as table_text,
)
from .worth import Valued as Valued, drop_note as drop_note, metric_told as metric_told, worth_json as worth_json
from .write import write_report as write_report
