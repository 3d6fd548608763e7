"""workers.inference: see the modules."""
