"""Every different answer that is scored on a split is one look."""

from orchestrator.run import enter_look


def test_enter_look_counts_different_answers_once(tmp_path):
    store = tmp_path / "3cf8"
    looks = [enter_look(store, "d1", "val", answer, "run") for answer in (["a"], ["b"], ["a"])]
    assert looks == [1, 2, 2]
    assert enter_look(store, "d1", "test", ["a"], "run") == 1
    assert enter_look(store, "d2", "val", ["a"], "run") == 1


def test_enter_look_where_nothing_can_be_written_counts_none(tmp_path, caplog):
    assert enter_look(tmp_path / "gone" / "3cf8", "d1", "val", ["a"], "run") == 0
    (tmp_path / "looks").write_text("a file in the place of the folder")
    assert enter_look(tmp_path / "3cf8", "d1", "val", ["a"], "run") == 0
    assert "looks at val are not counted" in caplog.text
