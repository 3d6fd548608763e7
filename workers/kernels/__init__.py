"""Kernels in C for what torch's operators do in many passes over memory; each has a plain fallback."""
