"""orchestrator.run: see the modules."""
