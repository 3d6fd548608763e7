"""Counts what a ledger's entry tells of training done twice."""

from itertools import pairwise

from orchestrator.run.ledger import Entry


def redone_updates(entry: Entry) -> int:
    """How many updates were trained more than once, all attempts together."""
    return sum(max(0, before.last_step - after.resumed_from) for before, after in pairwise(entry.attempts))
