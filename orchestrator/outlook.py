"""What a plan comes to: how many scores a system averages, which groups are the same, and how long the rest takes."""

import pyarrow.compute as pc

from orchestrator.config import Study
from orchestrator.plan import Plan
from orchestrator.recipes import EncoderRecipe, ExtractorRecipe, Recipe

AUDIO_PER_SECOND_TRAINING = 150.0  # seconds of audio per second and core: 33 clips/s of 4.5 s, measured
AUDIO_PER_SECOND_SCORING = 500.0


def shared_groups(plan: Plan) -> dict[str, str]:
    """Groups whose members another group has already, such as one with pseudo-labels where no machine needs any."""
    first: dict[tuple[str, ...], str] = {}
    named = {group: tuple(member.hash for member in members) for group, members in plan.groups.items()}
    return {group: same for group, hashes in named.items() if (same := first.setdefault(hashes, group)) != group}


def scores_of(study: Study, system: str) -> int:
    """How many scores of a clip a system averages: checkpoints times seeds, 15 a group in the report."""
    recipes = [study.groups[group] for group in study.systems[system].groups]
    return sum(len(r.checkpoints) * (len(study.seeds) if isinstance(r, ExtractorRecipe) else 1) for r in recipes)


def estimated_seconds(plan: Plan) -> float:
    """All work left on one core, from rates measured with the paper's network on one core; a rough guide.

    Groups that wait count as if they were trained on the original clips alone; choosing external audio is not counted.
    """
    train = pc.sum(pc.equal(plan.clips["split"], "train")).as_py()
    waiting = [recipe for group, recipe in plan.study.groups.items() if group in plan.waiting for _ in plan.study.seeds]
    left = [(member.recipe, *plan.work_left(member)) for member in plan.pending]
    left += [(recipe, recipe.epochs * train, len(plan.clips)) for recipe in waiting]
    seconds = 0.0
    for recipe, train_passes, scored in left:
        seconds += _audio_seconds(recipe) * train_passes / AUDIO_PER_SECOND_TRAINING
        seconds += _audio_seconds(recipe) * scored * len(recipe.checkpoints) / AUDIO_PER_SECOND_SCORING
    return seconds


def _audio_seconds(recipe: Recipe) -> float:
    """The audio behind one pass over a clip, in seconds through the report's three branches."""
    if isinstance(recipe, ExtractorRecipe):
        return len(recipe.branches) / 3 * recipe.clip_seconds
    return recipe.clip_seconds if isinstance(recipe, EncoderRecipe) else 10.0
