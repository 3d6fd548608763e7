"""Finds the members that differ only by chance, of which `ensemble.admit` may end some. Pure."""

import json
from collections.abc import Collection
from dataclasses import replace

from orchestrator.config import Config
from orchestrator.plan.model import Plan, changed
from workers.errors import ConfigError


def recipes(plan: Plan, without: Collection[str] = ()) -> tuple[tuple[str, ...], ...]:
    """Returns the members of each recipe in the plan's order, but for those in `without`.

    Members are of one recipe if their chains of stages are equal but for seeds and names.
    """
    groups: dict[str, list[str]] = {}
    for member in plan.trained:
        last = plan.last_stage(member)
        chain = [
            (changed(replace(one.recipe, init_from=None, refit=None)), one.init_file and one.init_file.sha256)
            for one in (last, *plan.ancestors(last))
        ]
        if member not in without:
            groups.setdefault(json.dumps(chain, sort_keys=True), []).append(member)
    return tuple(map(tuple, groups.values()))


def check_admission(config: Config, plan: Plan) -> None:
    """Raises ConfigError if `ensemble.admit` cannot decide about any member of `plan`, or may leave too few."""
    if config.admit.worth is None:
        return
    sizes = [len(members) for members in recipes(plan, config.combine.without)]
    least, wanted = len(plan.outside.keys() - config.combine.without), config.submission.min_members or 1
    least += sum(min(2, size) for size in sizes)
    for fits, why in (
        (not plan.rungs, "sweep_stop=halving ends members too; leave out one of them"),
        (
            not plan.is_folded,
            "decides about single members, and those of a recipe's folds belong together; give one of them up",
        ),
        (not plan.refits, f"decides by dev, and {', '.join(plan.refits)} trained on it; leave out the refit"),
        (plan.target.counts.get("dev"), "decides by dev, and none is held out; give datasets.target.dev_fraction=0.1"),
        (max(sizes, default=0) > 2, "no three members differ only in their seeds, so it decides nothing; leave it out"),
        (wanted <= least, f"may leave {least} members, and submission.min_members={wanted}; give at most {least}"),
    ):
        if not fits:
            raise ConfigError(f"ensemble.admit.worth={config.admit.worth:g}: {why}")
