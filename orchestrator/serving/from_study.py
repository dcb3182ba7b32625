"""A finished study's system as a model: which members' files it needs, its thresholds, its training scores."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.threshold import gamma_threshold
from orchestrator.config import Study, uses_core_set
from orchestrator.data import clips as clip_table
from orchestrator.data.audioset import external_shards
from orchestrator.ensemble import RULES, score_matrix
from orchestrator.errors import ConfigError, DataError
from orchestrator.loading import read_study
from orchestrator.members import Member
from orchestrator.plan import CLIPS, Plan, plan_members
from orchestrator.provenance import code_version
from orchestrator.recipes import EncoderRecipe
from orchestrator.scoring import output_name
from orchestrator.serving.bundle import Bundle, References
from orchestrator.serving.manifest import Manifest, MemberEntry, Place, PlaceEntry
from orchestrator.storage import Store


def bundle_of_study(folder: str | Path, system: str) -> Bundle:
    """One system of the study in `folder`; nothing is copied or written, and no recording is read.

    ConfigError: no such system. DataError: the study is not finished, or lacks what scoring needs.
    """
    store = Store.at(folder)
    study = _study(store, system)
    plan = _plan(study, store)
    members = _members(plan, system)
    references = reference_scores(_system_scores(plan, members, study.score_of(system)), plan.clips)
    manifest = _manifest(plan, system, members, references)
    _check_files(store, manifest)
    return Bundle(manifest, store, {place: np.sort(scores) for place, scores in references.items()})


def _study(store: Store, system: str) -> Study:
    """The study with this system alone and the groups that it needs."""
    study = read_study(store)
    if system not in study.systems:
        raise ConfigError(f"{study.name} has no system {system!r}; it has {', '.join(study.systems)}")
    needed = set(study.systems[system].groups)
    if study.core_set is not None and any(uses_core_set(study.groups[group]) for group in needed):
        needed.add(study.core_set.group)
    groups = {name: recipe for name, recipe in study.groups.items() if name in needed}
    alone = {"groups": groups, "systems": {system: study.systems[system]}}
    return study.model_copy(update=alone)


def _plan(study: Study, store: Store) -> Plan:
    if not store.exists(CLIPS):
        raise DataError(f"{store.uri} holds no {CLIPS}: the study was never run; run `asd run STUDY` first")
    clips = clip_table.check(store.read_table(CLIPS), study.data.max_bad_clips)
    return plan_members(study, store, clips, external_shards(study))


def _members(plan: Plan, system: str) -> list[Member]:
    """The system's members, each once; DataError where one is not trained and scored."""
    groups = plan.study.systems[system].groups
    waiting = [f"{group} waits for {plan.waiting[group]}" for group in groups if group in plan.waiting]
    members = {member.hash: member for group in groups for member in plan.groups.get(group, ())}
    waiting += [f"{m.title}: {plan.state(m)}" for m in members.values() if not plan.is_through(m)]
    if waiting:
        raise DataError(f"{system} is not finished: {'; '.join(waiting[:5])}. Run `asd run` on its study again")
    return list(members.values())


def _system_scores(plan: Plan, members: Sequence[Member], output: str) -> NDArray[np.float64]:
    """The study's own score of each clip: (N,)."""
    tables = [member.folder(plan.store).read_table(output_name(member, plan.key)) for member in members]
    return RULES["mean"](score_matrix(pa.concat_tables(tables), members, plan.clips, output), plan.clips)


def reference_scores(score_N: NDArray[np.float64], clips: pa.Table) -> References:
    """Scores of the clips that a place's threshold comes from: source training clips, or all where there are none.

    They stay in the order of the clips, on which the last digits of a gamma fit depend. A target training clip is its
    own reference, at distance 0, so it says nothing about normal scores (spec §12).
    """
    train = pc.equal(clips["split"], "train").to_numpy(zero_copy_only=False)
    source = train & pc.not_equal(clips["domain"], "target").to_numpy(zero_copy_only=False)
    chosen = {place: source[rows] if source[rows].any() else train[rows] for place, rows in _places(clips).items()}
    return {place: score_N[rows][chosen[place]] for place, rows in _places(clips).items()}


def _places(clips: pa.Table) -> dict[Place, NDArray[np.int64]]:
    return {Place(*place): rows for place, rows in clip_table.by_place(clips).items()}


def _manifest(plan: Plan, system: str, members: Sequence[Member], references: References) -> Manifest:
    study, percentile = plan.study, plan.study.ensemble.percentile
    train = plan.clips.filter(pc.equal(plan.clips["split"], "train"))
    places = [
        PlaceEntry(machine=p.machine, section=p.section, threshold=gamma_threshold(scores, percentile).value)
        for p, scores in references.items()
    ]
    return Manifest(
        format=1,
        study=study.name,
        system=system,
        title=study.systems[system].title or system,
        output=study.score_of(system),
        key=plan.key,
        training_data=clip_table.fingerprint(train),
        code=code_version(),
        min_seconds=study.data.min_seconds,
        percentile=percentile,
        places=tuple(places),
        members=tuple(map(_entry, members)),
    )


def _entry(member: Member) -> MemberEntry:
    assert not isinstance(member.recipe, EncoderRecipe), "encoders make labels, they are in no system"
    return MemberEntry(
        hash=member.hash, group=member.group, seed=member.seed, machine=member.machine, recipe=member.recipe
    )


def _check_files(store: Store, manifest: Manifest) -> None:
    """DataError for members whose scores are there, but not what made them."""
    lacking = [
        name for m in manifest.members for name in m.files(manifest.key, manifest.output) if not store.exists(name)
    ]
    if lacking:
        raise DataError(
            f"{manifest.system} cannot be exported: {len(lacking)} file(s) are missing, such as "
            f"{store.uri}/{lacking[0]}. An older version wrote these scores: run the study again under another `name=`"
        )
