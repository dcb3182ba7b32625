"""What a slot does with a member: which rows and labels it gets, and what it tells the display."""

from typing import Any

import pyarrow as pa
import pytest

from orchestrator import work as work_module
from orchestrator.config import BackendConfig
from orchestrator.data.labels import label_sets
from orchestrator.members import Member
from orchestrator.recipes import AutoencoderRecipe, ExtractorRecipe
from orchestrator.storage import Store
from orchestrator.work import AUTOENCODER_COST, make_work, work_on

CLIPS = pa.table(
    {
        "clip_id": ["a", "b", "c", "d", "e"],
        "digest": list("12345"),
        "split": ["test", "train", "train", "test", "train"],
        "machine": ["fan", "fan", "fan", "fan", "pump"],
        "section": ["00"] * 5,
        "attribute": ["x", "n_A", "n_B", "y", "n_A"],
        "domain": ["source"] * 5,
    }
)
TRAIN = CLIPS.take([1, 2, 4])
EXTERNAL = pa.table({"clip_id": ["external/z"], "mid": ["/m/1"], "machine": ["pump"]})


def test_members_get_the_rows_of_their_own_label_sets() -> None:
    plain, more = label_sets(TRAIN), label_sets(TRAIN, pseudo={"e": [0, 1]}, external=EXTERNAL)
    work = make_work(Store.at("/nowhere"), CLIPS, BackendConfig(), [plain, more], [], ["external/z"])
    assert work.sets[plain.digest].rows.tolist() == [1, 2, 4]
    assert work.sets[plain.digest].labels.tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    rows, labels = work.sets[more.digest]
    assert rows.tolist() == [1, 2, 4, 5]  # external clips follow the study's in the bank
    assert more.classes[0] == "external||/m/1+pump|"
    assert labels[2].sum() == 2
    assert labels[3].tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("recipe", "cost"),
    [
        (ExtractorRecipe(epochs=2, checkpoints=(2,)), 1.0),
        (AutoencoderRecipe(kind="autoencoder", epochs=2), AUTOENCODER_COST),
    ],
)
def test_steps_become_clips_passed_since_the_last_step(
    monkeypatch: pytest.MonkeyPatch, recipe: Any, cost: float
) -> None:
    def two_epochs(*, on_step: Any, **_: Any) -> None:
        for epoch, clips in ((1, 64), (1, 100), (2, 64), (2, 100), (3, 100), (4, 100)):
            on_step(epoch, clips)

    monkeypatch.setattr(work_module, "train_member", two_epochs)
    monkeypatch.setattr(work_module, "score_member", lambda *args: [args[-1](64), args[-1](6)])
    work = make_work(Store.at("/nowhere"), CLIPS, BackendConfig(), [], [])
    told: list[tuple[str, float]] = []
    bank: Any = type("Bank", (), {"device": "cpu"})
    work_on(Member("g", 0, recipe, "", ""), work, bank, lambda stage, clips: told.append((stage, clips)))
    assert [clips for _, clips in told] == [*(cost * n for n in (64, 36, 64, 36, 100, 100)), 64, 6]
    assert [stage for stage, _ in told][-3:] == ["epoch 4/2", "scoring", "scoring"]
