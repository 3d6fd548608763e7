"""What an error of a tracking store means: whether asking again can help, and what it says in one line."""

from orchestrator.tracking_address import redact
from workers.errors import ConfigError

# Codes with which a store that answers says no: asking again changes nothing.
_LASTING_CODES = frozenset(
    {
        "FEATURE_DISABLED",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "MALFORMED_REQUEST",
        "NOT_IMPLEMENTED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
    }
)
# Codes that MLflow's client also makes of a bare HTTP status. What stands before a server that is being restarted
# answers 400, 401, 403 or 404 with a page of its own: only in MLflow's own words do they last.
_LASTING_WORDS = frozenset(
    {"BAD_REQUEST", "CUSTOMER_UNAUTHORIZED", "ENDPOINT_NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED"}
)
_LASTING_TYPES = (ArithmeticError, AttributeError, ConfigError, FileNotFoundError, ImportError, LookupError, TypeError)
_MAX_SHOWN = 160


def is_lasting(error: Exception) -> bool:
    """Whether the same call would fail again although the store answers."""
    code, kind = getattr(error, "error_code", None), type(error).__name__
    if isinstance(code, str) and (code in _LASTING_CODES or (code in _LASTING_WORDS and kind == "RestException")):
        return True
    return kind == "InvalidUrlException" or isinstance(error, _LASTING_TYPES)


def explain(error: Exception) -> str:
    """One short line, without secrets, of what a store's error says."""
    text = redact(" ".join(str(error).split()) or type(error).__name__)
    if "Connection refused" in text or "NewConnectionError" in text:
        return "nobody listens there"
    if "NameResolutionError" in text:
        return "no such host"
    if "timed out" in text:
        return "no answer in time"
    if "Connection aborted" in text or "Max retries exceeded" in text or "Connection broken" in text:
        return "the connection broke off"
    if "database is locked" in text:
        return "another process holds the database"
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
