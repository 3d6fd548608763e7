from .checks import check_lines as check_lines, examine as examine, has_failed as has_failed
from .facts import gather as gather
