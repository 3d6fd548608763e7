"""workers.settings.training: see the modules."""
