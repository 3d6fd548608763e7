"""Compares Septet with its peers, both sides in one run: `make bench`."""
