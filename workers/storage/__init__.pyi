from .atomic import (
    TEMPORARY_PREFIX as TEMPORARY_PREFIX,
    atomic_folder as atomic_folder,
    fsync_folder as fsync_folder,
    parse_json as parse_json,
    remove_leftovers as remove_leftovers,
    replacing as replacing,
    replacing_folder as replacing_folder,
    sha256_of as sha256_of,
    storage_errors as storage_errors,
    write_bytes as write_bytes,
    write_json as write_json,
    write_text as write_text,
)
from .checkpoint import (
    MANIFEST_FILE as MANIFEST_FILE,
    MODEL_FILE as MODEL_FILE,
    STEP_GLOB as STEP_GLOB,
    Checkpoint as Checkpoint,
    Contents as Contents,
    Weights as Weights,
    name_of as name_of,
    newest_checkpoint as newest_checkpoint,
    prune as prune,
    read_weights as read_weights,
    verify_checkpoint as verify_checkpoint,
    write_checkpoint as write_checkpoint,
)
from .fence import fence_of as fence_of, raise_fence as raise_fence, unfenced as unfenced
from .finished import (
    DONE_FILE as DONE_FILE,
    Finished as Finished,
    read_finished as read_finished,
    write_finished as write_finished,
)
from .heartbeat import STEP_FILE as STEP_FILE, beat as beat, beating as beating, silent as silent
from .lock import is_locked as is_locked, locked as locked
