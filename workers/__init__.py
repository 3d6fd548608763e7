"""Stores, nets, training and prediction: everything that runs in a process beside the data.

This package imports neither the orchestrator nor Ray nor MLflow.
"""
