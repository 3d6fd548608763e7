from .atomic import (
    SEAL as SEAL,
    TEMPORARY_PREFIX as TEMPORARY_PREFIX,
    fsync as fsync,
    hold as hold,
    is_of_storage as is_of_storage,
    is_sealed as is_sealed,
    make_folder as make_folder,
    nothing as nothing,
    parse_json as parse_json,
    remove_leftovers as remove_leftovers,
    replacing as replacing,
    replacing_folder as replacing_folder,
    require_held as require_held,
    sealed as sealed,
    sha256_of as sha256_of,
    storage_errors as storage_errors,
    write_bytes as write_bytes,
    write_json as write_json,
    write_json_lines as write_json_lines,
    write_text as write_text,
)
from .checkpoint import (
    Checkpoint as Checkpoint,
    Contents as Contents,
    Weights as Weights,
    keep_weights as keep_weights,
    newest_checkpoint as newest_checkpoint,
    newest_step as newest_step,
    prune as prune,
    read_weights as read_weights,
    steps_of as steps_of,
    verify_checkpoint as verify_checkpoint,
    write_checkpoint as write_checkpoint,
)
from .fence import fence_of as fence_of, raise_fence as raise_fence
from .finished import Finished as Finished, read_finished as read_finished, write_finished as write_finished
from .heartbeat import beat as beat, beating as beating
from .home import expanded as expanded
from .lock import is_locked as is_locked, locked as locked
from .tensor_file import Written as Written, write_hashed as write_hashed, written as written
