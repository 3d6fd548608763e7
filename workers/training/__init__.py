"""Trains one stage: its loop, optimizer, schedule, evaluation and metrics.

`run_stage` resumes from the newest valid checkpoint and returns when the stage is finished.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
