"""A question of thirty images and seven classes, probabilities to answer it with, and the file of an answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from orchestrator.config.schema import SubmissionFormat
from orchestrator.submission.formats import Layout, Question, file_lines, make_layout

CLASSES = tuple(f"n{number:02d}" for number in (3, 1, 4, 15, 9, 2, 6))
NUM_ROWS = 30
ALL_FORMATS = list(SubmissionFormat)


def make_question(submission_format: SubmissionFormat, **changes: object) -> Question:
    rows = tuple(f"test_{index:02d}.JPEG" for index in range(NUM_ROWS))
    sizes = np.array([(100 + index, 50 + index) for index in range(NUM_ROWS)], np.int32)
    return replace(Question(submission_format, rows, CLASSES, sizes), **changes)


def draw(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(len(CLASSES)), size=NUM_ROWS).astype(np.float32)


def write(path: Path, question: Question, layout: Layout, probabilities: np.ndarray) -> Path:
    path.write_text("".join(file_lines(question, layout, probabilities)))
    return path


def names_of(question: Question) -> tuple[str, ...]:
    return make_layout(question).names
