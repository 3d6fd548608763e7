"""The local backend in place of Ray's."""

from collections.abc import Iterator
from contextlib import contextmanager

from local_actors import LocalActors

from orchestrator.cluster import Needs
from orchestrator.config import ClusterConfig


@contextmanager
def one_slot(_settings: ClusterConfig, _needs: Needs | None = None) -> Iterator[LocalActors]:
    """Takes the place of `open_cluster`: one member at a time, since torch's generator is the process's."""
    actors = LocalActors(num_slots=1)
    try:
        yield actors
    finally:
        # Ray would have killed them; a thread that computes while the interpreter ends would abort it.
        for thread in actors.threads:
            thread.join(20)
