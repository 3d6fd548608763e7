"""Doing: one stage of one member. Knows nothing of Ray, Hydra, MLflow or other members."""
