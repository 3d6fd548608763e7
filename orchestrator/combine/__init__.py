"""orchestrator.combine.averaging: see the modules."""
