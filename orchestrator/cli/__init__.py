"""orchestrator.cli.program: see the modules."""
