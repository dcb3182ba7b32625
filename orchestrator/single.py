"""One member in this process, without Ray: for a bare GPU machine, a debugger or a profiler."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from orchestrator.config import Study
from orchestrator.data.clips import read_clips
from orchestrator.data.dcase import find_clips
from orchestrator.data.waves import WaveBank, pack
from orchestrator.errors import ConfigError, ResourceError
from orchestrator.farm import training_rows, work_on
from orchestrator.storage import Store, only_writer
from orchestrator.study import checked_clips, plan_members, study_folder

SAY_EVERY_SECONDS = 5.0


def train_single(
    study: Study, group: str, seed: int, device: str, threads: int, say: Callable[[str, int], None]
) -> Path:
    """Train and score the member (group, seed) into the study's folder, where `asd run` will find it."""
    if group not in study.groups:
        raise ConfigError(f"--group {group!r}: the study's groups are {', '.join(study.groups)}")
    if seed not in study.seeds:
        raise ConfigError(f"--seed {seed}: the study's seeds are {', '.join(map(str, study.seeds))}")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ResourceError(f"--device {device}: {str(error).splitlines()[0]}; valid: cpu, cuda, cuda:N") from error
    torch.set_num_threads(threads)
    with only_writer(study_folder(study)):
        table, waves = read_clips(find_clips(study.data.root).clips, study.data.min_seconds)
        plan = plan_members(study, Store.at(study_folder(study)), checked_clips(table, study.data))
        problems = table["problem"].to_pylist()
        bank = WaveBank([pack([wave for wave, bad in zip(waves, problems, strict=True) if not bad])], device)
        member = plan.members[plan.groups[group][study.seeds.index(seed)]]
        work = training_rows(plan.store, plan.clips, plan.vocabulary, study.backend, parts=[])
        work_on(member, work, bank, _Paced(say))
        return Path(member.folder(plan.store).root)


class _Paced:
    """Passes on what the slot reports, a line every few seconds."""

    def __init__(self, say: Callable[[str, int], None]) -> None:
        self.say, self.clips, self.said = say, 0, time.monotonic()

    def __call__(self, stage: str, clips: int) -> None:
        self.clips += clips
        if time.monotonic() - self.said > SAY_EVERY_SECONDS:
            self.say(stage, self.clips)
            self.said = time.monotonic()
