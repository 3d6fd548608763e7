"""orchestrator.cluster: see the modules."""
