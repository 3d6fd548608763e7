"""orchestrator.plan.build: see the modules."""
