"""Trains one stage: its loop, optimizer, schedule, evaluation and metrics.

`run_stage` resumes from the newest valid checkpoint and returns when the stage is finished.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
