"""Typed, picklable errors. Each carries the exit code that the command line answers with.

A message is one line: what is wrong, where, and what to change.
"""

from typing import ClassVar


class SeptetError(Exception):
    """Base of every error that a user is meant to read; picklable (one positional argument)."""

    exit_code: ClassVar[int] = 1


class ClusterLost(SeptetError):
    """The cluster went away; the same command resumes from disk."""


class ConfigError(SeptetError):
    """Usage, configuration, resources, or an unreachable tracking store at a new run's start."""

    exit_code = 2


class DataError(SeptetError):
    """A missing root, an empty class, a bad image, an unknown image id, no such run directory."""

    exit_code = 3


class SourceLost(DataError):
    """Files that were there do not answer any more; the same command goes on with what was prepared of them."""


class MemberFailed(SeptetError):
    """A member failed for good, or its predictions are missing."""

    exit_code = 4


class Diverged(MemberFailed):
    """Loss, gradient, weights or outputs became NaN or infinite; `step`: after how many updates, where it is known."""

    def __init__(self, message: str, *, step: int | None = None) -> None:
        # Not an argument of the base: pickle gives those back by position, and `step` by the instance's dictionary.
        super().__init__(message)
        self.step = step


class RunInUse(SeptetError):
    """Another process holds the run directory."""

    exit_code = 5


class RunMismatch(SeptetError):
    """Configuration, data or code differ from the run's."""

    exit_code = 6


class StorageError(SeptetError):
    """Storage is full, unwritable, not shared by all nodes, or holds no valid checkpoint."""

    exit_code = 7


class StorageSilent(StorageError):
    """Storage refuses or does not answer, which says nothing of what it holds."""


class CheckFailed(SeptetError):
    """A check failed: hashes differ, or predictions are not probabilities."""

    exit_code = 8


class Superseded(SeptetError):
    """A newer attempt has taken this one's place: nothing more may be written, and nobody waits for the answer."""


class Stopped(SeptetError):
    """The stage stopped at a step boundary because it was asked to; its checkpoint is on disk."""

    exit_code = 130
