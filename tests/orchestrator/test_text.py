"""Durations, sizes and counts as people read them."""

import pytest

from orchestrator.text import counted, duration, redact, size


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (12000, "3 h 20 min"), (367200, "4 d 06 h")],
)
def test_duration_is_said_as_a_person_would(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("num_bytes", "said"),
    [(999, "999 B"), (950_000, "950 KB"), (999_700, "1.0 MB"), (12_340_000, "12.3 MB"), (252_600_000_000, "253 GB")],
)
def test_size_is_said_by_powers_of_ten(num_bytes, said):
    assert size(num_bytes) == said


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(1, "image", "1 image"), (0, "image", "0 images"), (2000, "class", "2,000 classes"), (0.5, "GPU", "0.5 GPUs")],
)
def test_counted_nouns_are_plural_but_for_one(number, noun, said):
    assert counted(number, noun) == said


def test_redact_hides_every_password():
    assert redact("http://me:pa:ss@host:5000/x") == "http://***@host:5000/x"
    assert "hush" not in redact("postgresql://host/db?user=me&password=hush&x=1")
    assert redact("failed at https://a:b@c/d?e") == "failed at https://***@c/d?e"
    assert redact("sqlite:////home/me/mlflow.db") == "sqlite:////home/me/mlflow.db"
