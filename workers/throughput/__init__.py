"""workers.throughput.measure: see the modules."""
