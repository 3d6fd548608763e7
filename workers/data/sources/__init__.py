"""workers.data.sources.registry: see the modules."""
