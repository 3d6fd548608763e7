"""workers.data.store.store: see the modules."""
