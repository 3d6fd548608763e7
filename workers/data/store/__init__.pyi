from .disk_space import require_space as require_space
from .excluded import NOTHING as NOTHING, Excluded as Excluded, held_out_by as held_out_by
from .fold_view import (
    only_fold as only_fold,
    rows_of_fold as rows_of_fold,
    stored_split as stored_split,
    without_fold as without_fold,
)
from .integrity import damaged_files as damaged_files
from .local_copy import open_on_node as open_on_node
from .packing import PackingThreads as PackingThreads
from .pixels import Pixels as Pixels, centre_square as centre_square
from .preparation import PrepareProgress as PrepareProgress, prepare as prepare
from .shards import (
    PackedShard as PackedShard,
    ShardJob as ShardJob,
    ShardRunner as ShardRunner,
    npy_header as npy_header,
    pack_shard as pack_shard,
    rows_per_shard as rows_per_shard,
    write_npy as write_npy,
)
from .store import (
    MANIFEST as MANIFEST,
    SCHEMA as SCHEMA,
    Store as Store,
    digest_of as digest_of,
    open_store as open_store,
    read_store as read_store,
)
