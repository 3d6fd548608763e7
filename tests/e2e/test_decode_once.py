"""One launch of three members decodes each image once, counted from outside in every process of the run."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from pictures import write_photos

# Every Python process loads this first, Ray's workers too.
WRAPPED_DECODER = """
import hashlib, os
from workers.data.decoding import decoder as module

decode = module.decode

def counted(content, *others, **options):
    descriptor = os.open(os.environ["DECODE_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (hashlib.sha256(content).hexdigest() + "\\n").encode())
    os.close(descriptor)
    return decode(content, *others, **options)

module.decode = counted
"""
SMALL = (
    *("experiment=tiny_imagenet", "model.width=0.08", "model.fc_units=24", "optimizer.batch_size=32"),
    *("schedule.epochs=1", *(f"ensemble.stages.{stage}.epochs=1" for stage in ("pretrain", "finetune"))),
    *("precision=fp32", "cluster.cpus_per_member=1", "tracking.required=false"),
    *(f"~ensemble.members.{name}" for name in ("base2", "base3", "base4", "pretrained2")),
)


@pytest.mark.slow
def test_launch_decodes_each_image_once_for_all_members(tmp_path, checkout):
    photos = tmp_path / "photos"
    for name in "abc":
        write_photos(photos / "train" / name, 20, side=64)
        write_photos(photos / "val" / name, 4, side=64)
    write_photos(photos / "test", 6, side=64)
    files = [path.relative_to(photos) for path in photos.rglob("*.png")]
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(WRAPPED_DECODER)
    (tmp_path / "two.txt").write_text("a\nb\n")
    places = (
        f"datasets.target.root={photos}",
        f"datasets.target.classes={tmp_path / 'two.txt'}",
        f"datasets.superset.root={photos}",
        f"datasets.store={tmp_path / 'store'}",
        f"datasets.local_copy={tmp_path / 'node'}",
        f"run_dir={tmp_path / 'run'}",
        f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}",
    )
    log = tmp_path / "decoded.txt"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'hook'}:{checkout}", "DECODE_LOG": str(log)}
    command = [sys.executable, "-m", "orchestrator.cli.program", "launch", *SMALL, *places]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run" / "members").iterdir())) == 3
    decoded = Counter(log.read_text().split())
    # Once for the target, of two classes, and once for the superset: two stores, of which each is packed once.
    in_target = sum(file.parts[0] == "test" or file.parts[1] in "ab" for file in files)
    assert sum(decoded.values()) == in_target + len(files)
    assert set(decoded.values()) <= {1, 2}
    # The members read the node's copies, each made once.
    assert len(list((tmp_path / "node").iterdir())) == 2
