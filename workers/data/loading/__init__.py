"""workers.data.loading: see the modules."""
