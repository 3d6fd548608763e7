"""Images from file to batch: sources list them, stores hold them decoded, loading makes batches.

Each of these steps has its own package or module here.
"""
