"""orchestrator.tracking.tracker: see the modules."""
