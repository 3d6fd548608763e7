"""Stores, nets, training and predictions: everything that runs in a process beside the data.

It knows nothing of the orchestrator, of Ray or of MLflow.
"""
