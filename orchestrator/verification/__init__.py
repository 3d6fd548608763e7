"""orchestrator.verification.findings: see the modules."""
