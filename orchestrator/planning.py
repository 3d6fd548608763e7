"""Makes the plan of a configuration, after every refusal that needs no prepared data and no run."""

from collections.abc import Mapping

from orchestrator import submission
from orchestrator.combine import check_min_members, fitting_split, left_out, weights_of, without
from orchestrator.config import FITTED, Calibrator, Config
from orchestrator.inputs import check_init_files
from orchestrator.plan import OutsideFile, Plan, StageRef, make_plan
from workers.data.survey import Survey
from workers.protocol import InitFile
from workers.settings import OUT_OF_FOLD


def checked_plan(
    config: Config,
    surveys: Mapping[str, Survey],
    init_files: Mapping[StageRef, InitFile],
    outside: Mapping[str, Mapping[str, OutsideFile]],
) -> Plan:
    """Returns `make_plan` of the same, as `septet plan` shows it and `septet launch` trains it.

    Raises:
        ConfigError, DataError: settings, files or data do not fit each other.
    """
    plan = make_plan(config, surveys, init_files, outside)
    check_init_files(plan)
    submission.read_named(config.submission)
    combined = without(plan, left_out(config.combine, plan))
    check_min_members(config.submission, combined)
    held = [split for split, count in {**plan.target.counts, OUT_OF_FOLD: combined.is_covered}.items() if count]
    if (method := config.combine.method) in FITTED:
        fitting_split(f"combine={method}", combined, held)
    if (calibration := config.combine.calibration) is not Calibrator.none:
        fitting_split(f"combine.calibration={calibration}", combined, held)
    weights_of(config.combine, combined.members, combined.voters)
    return plan
