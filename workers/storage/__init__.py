"""workers.storage: see the modules."""
