"""orchestrator.display: see the modules."""
