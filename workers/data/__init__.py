"""Datasets, from files that people have to batches that a net sees; each folder here is a package of its own."""
