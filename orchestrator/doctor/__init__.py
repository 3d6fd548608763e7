"""orchestrator.doctor.checks: see the modules."""
