from .explanation import (
    explain as explain,
    explanation_json as explanation_json,
    explanation_lines as explanation_lines,
)
from .findings import (
    require_ok as require_ok,
    verification_json as verification_json,
    verification_lines as verification_lines,
)
from .run import verify as verify
