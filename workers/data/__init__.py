"""Images on their way to a batch: decoded, listed by sources, packed into stores, and loaded.

Each of these has a package or module of its own here.
"""
