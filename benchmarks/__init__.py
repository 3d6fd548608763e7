"""Comparisons with peers, both sides in one run: `make bench`."""
