"""How the members of a study learned: loss and speed by epoch, from what each one's folder holds."""

import io
from typing import NamedTuple

import torch
from markupsafe import Markup

from orchestrator.display import duration
from orchestrator.members import DONE, LAST, Member
from orchestrator.plan import ENCODERS, Plan
from orchestrator.report.contents import Contents
from orchestrator.report.member_charts import loss_curves
from orchestrator.storage import Store

History = list[dict[str, float]]  # a row an epoch: epoch, loss, seconds, clips_per_second


class Group(NamedTuple):
    """The members of one recipe: their curves and their state."""

    name: str
    picture: Markup | None
    members: list[tuple[str, int]]  # what each is called, and its colour
    done: int
    total: int
    seconds: float  # of training, all members together
    clips_per_second: float | None  # mean over their epochs
    last_loss: str

    @property
    def told_seconds(self) -> str:
        return duration(self.seconds)


def training_groups(contents: Contents) -> list[Group]:
    """The study's groups and its encoders, as far as their members are known."""
    plan = contents.plan
    if plan is None:
        return []
    encoders = [member for pair in plan.encoders.values() for member in pair]
    groups = {**({ENCODERS: encoders} if encoders else {}), **plan.groups}
    return [_group(plan, name, members) for name, members in groups.items()]


def _group(plan: Plan, name: str, members: list[Member]) -> Group:
    histories = {_title(member): read_history(member.folder(plan.store)) for member in members}
    losses = {title: {int(row["epoch"]): row["loss"] for row in rows} for title, rows in histories.items()}
    every = [row for rows in histories.values() for row in rows]
    last = [rows[-1]["loss"] for rows in histories.values() if rows]
    seen = [title for title, rows in histories.items() if rows]
    return Group(
        name=name,
        picture=loss_curves(losses, name),
        members=[(title, index % 8) for index, title in enumerate(seen)],
        done=sum(member.folder(plan.store).exists(DONE) for member in members),
        total=len(members),
        seconds=sum(row["seconds"] for row in every),
        clips_per_second=sum(row["clips_per_second"] for row in every) / len(every) if every else None,
        last_loss=f"{min(last):.4g} to {max(last):.4g}" if last else "",
    )


def _title(member: Member) -> str:
    return " ".join([*([member.machine] if member.machine else []), f"seed {member.seed}"])


def read_history(folder: Store) -> History:
    """A member's epochs so far; empty before the first has ended."""
    if folder.exists(DONE):
        return list(folder.read_json(DONE)["history"])
    if folder.exists(LAST):
        return list(torch.load(io.BytesIO(folder.read(LAST)), weights_only=True, map_location="cpu")["history"])
    return []
