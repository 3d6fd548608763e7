from .table import SplitScores as SplitScores, score_split as score_split, table_text as table_text
from .write import Evidence as Evidence, scores_json as scores_json, write_report as write_report
