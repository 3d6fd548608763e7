"""`septet` with members as threads of its own process in place of Ray, for faults that need no cluster.

`SEPTET_TEST_FAULT=FILE:FUNCTION` names a function that is called first: it puts a fault in place, or takes a protection
out. All else is as a user has it: the command line, its exit codes, its one line on stderr.
"""

import importlib.util
import os
import sys

from one_slot import one_slot

from orchestrator import launching as story
from orchestrator.cli.program import main


def _put_fault_in_place(where: str) -> None:
    path, _, function = where.rpartition(":")
    found = importlib.util.spec_from_file_location("septet_test_fault", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    getattr(module, function)()


if __name__ == "__main__":
    story.cluster.open_cluster = one_slot  # type: ignore[assignment]
    if "SEPTET_TEST_FAULT" in os.environ:
        _put_fault_in_place(os.environ["SEPTET_TEST_FAULT"])
    sys.exit(main())
