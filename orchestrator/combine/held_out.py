"""Says which of the held-out splits fits look at. Pure."""

from collections.abc import Collection

from orchestrator.plan import Plan
from workers.errors import ConfigError
from workers.settings import OUT_OF_FOLD


def fitting_split(setting: str, plan: Plan, splits: Collection[str]) -> str:
    """Returns which of the held-out `splits` is looked at by a fit that a `setting`, `combine=weighted`, asks for.

    Raises:
        ConfigError: there is none, a member is trained on it, or one from outside has no predictions of it.
    """
    found = _held_out(plan, splits)
    one_recipe = len(set(plan.voters.values())) == 1 and setting in ("combine=weighted", "combine=greedy")
    if found == OUT_OF_FOLD and one_recipe:
        raise ConfigError(f"{setting}: the folds have one recipe, so there is nothing to weigh; give combine=mean")
    instead = "combine=mean" if setting.startswith("combine=") else "combine.calibration=none"
    if found is None:
        why = f"{', '.join(plan.refits)} trained on them" if plan.refits else "neither is held out"
        if plan.is_folded:
            why += ", nor are there out-of-fold predictions of all members"
        raise ConfigError(f"{setting}: is fitted on dev or val, and {why}; give {instead}")
    if lacking := plan.lacking(found):
        give = f"give ensemble.members.{lacking[0]}.predictions.{found}=FILE, or {instead}"
        raise ConfigError(f"{setting}: is fitted on {found}, of which {', '.join(lacking)} has nothing; {give}")
    return found


def _held_out(plan: Plan, splits: Collection[str]) -> str | None:
    order = (OUT_OF_FOLD, "dev", "val")
    return None if plan.refits else next((split for split in order if split in splits), None)


def no_sets(plan: Plan, splits: Collection[str]) -> str | None:
    """Returns a line on why there are no prediction sets; None where `splits` has what they are fitted to."""
    found = _held_out(plan, splits)
    lacking = plan.lacking(found) if found else ()
    if found and not lacking:
        return None
    why = (
        f"{', '.join(lacking)} has no predictions of {found}" if found else "No labelled image is held out of training"
    )
    return f"{why}, so submission/uncertainty.parquet has no prediction sets."
