"""orchestrator.report.write: see the modules."""
