"""orchestrator.placement.choice: see the modules."""
