"""orchestrator.execution: see the modules."""
