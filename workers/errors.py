"""Typed, picklable errors, each with the exit code of the command line.

A message is one line: what is wrong, where, and what to change.
"""

from collections.abc import Sequence
from typing import ClassVar


def some(values: Sequence[str], most: int = 3) -> str:
    """Returns the first few of `values`, for a message."""
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")


class SeptetError(Exception):
    """The base of every error that is meant for users; takes one positional argument, so that it can be pickled."""

    exit_code: ClassVar[int] = 1


class ClusterLost(SeptetError):
    """The cluster was lost; run the same command again to resume."""


class ConfigError(SeptetError):
    """Usage or configuration is wrong, resources are missing, or a new run cannot reach its tracking store."""

    exit_code = 2


class DataError(SeptetError):
    """A root or run directory is missing, a class is empty, an image is bad, or an image id is unknown."""

    exit_code = 3


class SourceLost(DataError):
    """Files can no longer be read; run the same command again to resume their preparation."""


class MemberFailed(SeptetError):
    """A member failed for good, or its predictions are missing."""

    exit_code = 4


class Diverged(MemberFailed):
    """Loss, gradient, weights or outputs became NaN or infinite, after `step` updates where that is known."""

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)  # Without `step`: pickle passes these by position and restores attributes itself.
        self.step = step


class RunInUse(SeptetError):
    """Another process holds the run directory."""

    exit_code = 5


class RunMismatch(SeptetError):
    """Configuration, data or code differ from those of the run."""

    exit_code = 6


class StorageError(SeptetError):
    """Storage is full, unwritable, not shared by all nodes, or holds no valid checkpoint."""

    exit_code = 7


class StorageSilent(StorageError):
    """Storage fails or does not answer; its files may still be intact."""


class CheckFailed(SeptetError):
    """A check failed: hashes differ, or predictions are not probabilities."""

    exit_code = 8


class PeerLost(SeptetError):
    """A worker of the gang is gone; the others end, and the stage resumes at whatever width fits."""


class Superseded(SeptetError):
    """A newer attempt has replaced this one, which must write nothing more."""


class Stopped(SeptetError):
    """The stage stopped on request at a step boundary; its checkpoint is on disk."""

    exit_code = 130
