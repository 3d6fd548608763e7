"""Deciding: configuration, plan, schedule, run directory, tracking, combining, submission, report."""
