"""One member in this process, without Ray: for a bare GPU machine, a debugger or a profiler."""

import time
from collections.abc import Callable

import torch

from orchestrator.config import Study
from orchestrator.coreset import read_core_set, samples_of
from orchestrator.data.audioset import external_shards
from orchestrator.data.clips import read_clips
from orchestrator.data.dcase import find_clips
from orchestrator.data.packing import pack
from orchestrator.data.waves import WaveBank
from orchestrator.devices import check_device
from orchestrator.errors import ConfigError
from orchestrator.loading import study_store
from orchestrator.lock import only_writer
from orchestrator.members import Member
from orchestrator.plan import Plan, checked_clips, plan_members
from orchestrator.storage import Store
from orchestrator.work import make_work, work_on

SAY_EVERY_SECONDS = 5.0


def train_single(
    study: Study, group: str, seed: int, device: str, threads: int, say: Callable[[str, float], None]
) -> Store:
    """Train and score the member (group, seed) into the study's folder, where `asd run` will find it."""
    if group not in study.groups:
        raise ConfigError(f"--group {group!r}: the study's groups are {', '.join(study.groups)}")
    if seed not in study.seeds:
        raise ConfigError(f"--seed {seed}: the study's seeds are {', '.join(map(str, study.seeds))}")
    check_device(device)
    torch.set_num_threads(threads)
    store = study_store(study)
    with only_writer(store):
        shards = external_shards(study)
        table, waves = read_clips(find_clips(study.data.root).clips, study.data.min_seconds)
        plan = plan_members(study, store, checked_clips(table, study.data), shards)
        members = _members(plan, group, seed)
        usable = [wave for wave, bad in zip(waves, table["problem"].to_pylist(), strict=True) if not bad]
        external = read_core_set(plan.core_set_folder) if plan.core_set_folder is not None else None
        chosen = external.table if external is not None else None
        bank = WaveBank([pack(usable), pack(samples_of(chosen) if chosen is not None else [])], device)
        ids = chosen["clip_id"].to_pylist() if chosen is not None else []
        sets, graphs = list(plan.label_sets.values()), study.cluster.cuda_graphs
        work = make_work(plan.store, plan.clips, study.backend, sets, [], ids, graphs)
        for member in members:
            work_on(member, work, bank, _Paced(say))
        return members[0].folder(store)


def _members(plan: Plan, group: str, seed: int) -> list[Member]:
    """The group's members of one seed: one, or one a machine."""
    if group in plan.waiting:
        raise ConfigError(f"--group {group} waits for the {plan.waiting[group]}; `asd run` makes it")
    members = [member for member in plan.groups[group] if member.seed == seed]
    if not members:
        raise ConfigError(f"--seed {seed}: group {group} has one network a machine, of seed {plan.study.seeds[0]}")
    return members


class _Paced:
    """Passes on what the slot reports, a line every few seconds."""

    def __init__(self, say: Callable[[str, float], None]) -> None:
        self.say, self.clips, self.said = say, 0.0, time.monotonic()

    def __call__(self, stage: str, clips: float) -> None:
        self.clips += clips
        if time.monotonic() - self.said > SAY_EVERY_SECONDS:
            self.say(stage, self.clips)
            self.said = time.monotonic()
