"""Trains one stage: loop, optimizer, schedule, evaluation, metrics. `run_stage` resumes and finishes it."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
