"""Scores of one set of probabilities, read and measured as a report does."""

from orchestrator.report import reliability, scores


def score(probabilities, labels):
    return scores.score(*scores.read_images([probabilities], labels))


def measure(combined, labels):
    return reliability.measure(scores.read_images(reliability.states(combined), labels), combined)
