"""Inner loops in C, each in a module of its own that others import directly.

Every module has a plain fallback for machines where no compiler built its kernel.
"""
