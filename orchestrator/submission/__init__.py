"""orchestrator.submission.write: see the modules."""
