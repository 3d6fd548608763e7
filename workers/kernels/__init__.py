"""Inner loops in C, each in a module of its own that others import directly.

Without a compiler at installation, Pillow and torch's operators replace them.
"""
