"""Hydra configuration groups, packaged so that a wheel carries them."""
