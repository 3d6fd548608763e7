"""Makes a member of each recipe for each fold. Pure."""

import itertools
from collections.abc import Mapping
from dataclasses import replace

from orchestrator.config.schema import FoldsConfig, MemberConfig, check_safe_name
from workers.errors import ConfigError
from workers.settings import Fold


def fold_members(members: Mapping[str, MemberConfig], folds: FoldsConfig) -> dict[str, MemberConfig]:
    """Returns each member for each fold, named `<member>-f<fold>`, and `<member>-r<repeat>-f<fold>` from repeat 1 on.

    A stage of another member that one starts from is that of the same fold, so no ancestor sees the fold's images.
    Students, which learn from the members of all folds, and members from outside stay as they are.

    Raises:
        ConfigError: a stage is a refit, which trains on what it looked at, or it starts from a student's, or a name
            becomes too long or another's.
    """
    found = {}
    named = {f"{member.name}.{stage}": (member.name, stage) for member in members.values() for stage in member.stages}
    students = {member.name for member in members.values() if any(one.distil.weight for one in member.stages.values())}
    whole = {member.name for member in members.values() if not member.stages} | students
    for member, repeat, number in itertools.product(members.values(), range(folds.repeats), range(folds.k)):
        if member.name in whole:
            found[member.name] = member
            continue
        fold, stages = Fold(folds.k, number, repeat), {}
        name = f"{member.name}{fold.suffix}"
        if name in found or name in whole:
            raise ConfigError(f"ensemble.members.{name}: two members would have this name; rename one of them")
        check_safe_name("member", name, f"ensemble.members.{name}")
        for stage, recipe in member.stages.items():
            if recipe.refit is not None:
                key = f"ensemble.members.{member.name}.stages.{stage}.refit={recipe.refit}"
                raise ConfigError(f"{key}: a member of a fold never trains on all images; remove the stage")
            origin = recipe.init_from
            if origin is not None and origin not in member.stages and origin in named:
                other, theirs = named[origin]
                if other in students:
                    key = f"ensemble.members.{member.name}.stages.{stage}.init_from={origin}"
                    raise ConfigError(f"{key}: a student learns from all images, so the fold would be seen; remove it")
                origin = f"{other}{fold.suffix}.{theirs}"
            stages[stage] = replace(recipe, init_from=origin, fold=fold)
        found[name] = replace(member, name=name, stages=stages)
    return found
