"""orchestrator.config.composition: see the modules."""
