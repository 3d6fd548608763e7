"""Run as a process of its own, since Ray keeps the first token that a process connects with.

`python pack_elsewhere.py ADDRESS ROOT STORES` prepares a folder over the cluster and prints, as JSON, the store and how
many images were told as packed; `python pack_elsewhere.py ADDRESS FOLDER` packs a shard into a folder that is not there
and prints what it says.
"""

import json
import sys
from pathlib import Path

from orchestrator.cluster.ray_shards import shard_runner
from orchestrator.config.schema import ClusterConfig
from workers.data.sources.files import FileLoader, PlainFiles
from workers.data.sources.listing import Row
from workers.data.sources.tree import LocalTree
from workers.data.store.preparation import PrepareProgress, prepare
from workers.data.store.shards import Encoding, ShardJob
from workers.errors import StorageError
from workers.settings.dataset import DatasetSettings


def prepared(address: str, root: str, stores: str) -> dict[str, object]:
    seen: list[PrepareProgress] = []
    runner = shard_runner(ClusterConfig(address=address))
    store = prepare(DatasetSettings(root=root, size=256), Path(stores), seen.append, runner=runner)
    return {"store": str(store), "packed": [each.done for each in seen if each.phase == "pack"]}


def refused(address: str, folder: str) -> dict[str, object]:
    row = Row("a", "a", 0, bytes(32))
    job = ShardJob(Path(folder), "train", 0, 0, (row,), 8, Encoding(), keep_unreadable=True)
    loader = FileLoader(PlainFiles(LocalTree(Path(folder).parent)))
    try:
        list(shard_runner(ClusterConfig(address=address)).run(loader, iter([job]), lambda num_images: None))
    except StorageError as error:
        return {"error": str(error)}
    return {}


if __name__ == "__main__":
    sys.stdout.write(json.dumps((prepared if len(sys.argv) == 4 else refused)(*sys.argv[1:])))
