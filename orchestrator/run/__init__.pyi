from .cleaning import clean as clean
from .code import from_kept_code as from_kept_code, keep_code as keep_code
from .costs import core_seconds as core_seconds, timed_attempts as timed_attempts
from .data import (
    RunData as RunData,
    SplitData as SplitData,
    of_store as of_store,
    read_run_data as read_run_data,
    require_same_folds as require_same_folds,
    spelled_as as spelled_as,
)
from .digests import (
    Book as Book,
    alteration as alteration,
    data_digests as data_digests,
    open_book as open_book,
    require_data as require_data,
    require_stage as require_stage,
)
from .holder import Holder as Holder, is_locked as is_locked, lock as lock, read_holder as read_holder
from .ledger import (
    Attempt as Attempt,
    AttemptEnd as AttemptEnd,
    Budgets as Budgets,
    Contents as Contents,
    Decision as Decision,
    Entry as Entry,
    Ledger as Ledger,
    State as State,
    end_noted as end_noted,
    read_ledger as read_ledger,
)
from .listing import list_runs as list_runs, listing_lines as listing_lines
from .looks import enter_look as enter_look
from .metrics import Follower as Follower
from .open import OpenedRun as OpenedRun, Wanted as Wanted, open_run as open_run
from .paths import (
    SUBMISSION_FILES as SUBMISSION_FILES,
    SUBMISSION_MANIFEST as SUBMISSION_MANIFEST,
    UNCERTAINTY as UNCERTAINTY,
    RunPaths as RunPaths,
)
from .record import (
    Committed as Committed,
    RunRecord as RunRecord,
    SubmissionDigests as SubmissionDigests,
    read_record as read_record,
    versions as versions,
)
from .status import (
    RunStatus as RunStatus,
    StageStatus as StageStatus,
    find_finished as find_finished,
    pace as pace,
    run_line as run_line,
    stage_line as stage_line,
    status_json as status_json,
    status_lines as status_lines,
)
from .status_reader import StatusReader as StatusReader, read_status as read_status
