"""Digests of what is committed, kept by nobody's run.json."""

from orchestrator.run.digests import Book
from orchestrator.run.record import Committed


def book_in_memory() -> Book:
    kept = [Committed()]
    return Book(lambda: kept[-1], kept.append)
