"""The processes that train: one stage of one member at a time, without Ray, Hydra or MLflow."""
