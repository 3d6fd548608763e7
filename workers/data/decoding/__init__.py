"""workers.data.decoding: see the modules."""
