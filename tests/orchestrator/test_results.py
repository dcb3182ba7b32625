"""From scores to the rows of a study: a table of two machines and four members, worked out by hand.

The fan has a normal and an anomalous test clip a domain, in the order source normal (sN), source anomaly (sA), target
normal (tN), target anomaly (tA). Nothing is known of the pump's test clips. Each member has two checkpoints, one a
point below its written scores and one a point above, so that its mean is what is written.
"""

import csv
import math

import pyarrow as pa
import pytest
from rich.text import Text

from orchestrator.config import Study
from orchestrator.data.truth import TRUTH_SCHEMA
from orchestrator.errors import DataError
from orchestrator.evaluation import evaluate_folder
from orchestrator.members import Member
from orchestrator.recipes import ExtractorRecipe
from orchestrator.results import make_results, member_figures, results_table, table_rows, write_results
from orchestrator.storage import Store

FAN_TRAIN = (2, 6, 0)  # two source clips and a target clip
PUMP = (5, 5, 5, 6)  # two source training clips, two test clips
MEMBERS = {  # (group, seed): the scores of the fan's test clips
    ("g", 0): (2, 8, 6, 4),
    ("g", 1): (2, 8, 4, 10),
    ("h", 0): (14, 4, 3, 9),
    ("h", 1): (14, 4, 3, 9),
}
RECIPE = ExtractorRecipe(epochs=2, checkpoints=(1, 2))
GROUPS = {group: [Member(group, seed, RECIPE, group, "") for seed in (0, 1)] for group in "gh"}
SEED_0 = 42 / 61  # of g-0 alone: AUC 1 and 1/2, pAUC 14/19 (half of the anomalies found before any false alarm)


def clip(machine, number, split, domain="source", label="normal", section="00"):
    file_name = f"section_{section}_{split}_{number:04d}.wav"
    return {
        "clip_id": f"{machine}/{split}/{file_name}",
        "machine": machine,
        "section": section,
        "split": split,
        "domain": domain,
        "label": label,
        "file_name": file_name,
    }


FAN_TEST = [(domain, label) for domain in ("source", "target") for label in ("normal", "anomaly")]
FAN_CLIPS = [clip("fan", i, "train", domain) for i, domain in enumerate(("source", "source", "target"))]
FAN_CLIPS += [clip("fan", i, "test", *kind) for i, kind in enumerate(FAN_TEST)]
PUMP_CLIPS = [clip("pump", i, "train") for i in range(2)]
PUMP_CLIPS += [clip("pump", i, "test", "unknown", "unknown") for i in range(2)]
CLIPS = pa.Table.from_pylist(FAN_CLIPS + PUMP_CLIPS)


def scores(clips=CLIPS) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "member": GROUPS[group][seed].hash,
                "seed": seed,
                "epoch": epoch,
                "output": "distance",
                "clip_id": clip_id,
                "score": float(score + add),
            }
            for (group, seed), test in MEMBERS.items()
            for epoch, add in ((1, -1), (2, 1))
            for clip_id, score in zip(clips["clip_id"].to_pylist(), (*FAN_TRAIN, *test, *PUMP), strict=True)
        ]
    )


def study(**changes) -> Study:
    systems = {"one": {"groups": ["g"], "title": "One", "published": 66.24}, "both": {"groups": ["g", "h"]}}
    fields = {"data": {"root": "data"}, "seeds": 2, "groups": {"g": {}, "h": {}}, "systems": systems, **changes}
    return Study.model_validate({"name": "tiny", **fields})


def results(clips=CLIPS, **changes):
    return make_results(study(**changes), clips, GROUPS, scores())


def unlabelled() -> pa.Table:
    rows = [r | ({"label": "unknown", "domain": "unknown"} if r["split"] == "test" else {}) for r in CLIPS.to_pylist()]
    return pa.Table.from_pylist(rows)


def column(name, values):
    return CLIPS.set_column(CLIPS.schema.get_field_index(name), name, [values])


# Figures


def test_the_official_score_is_of_the_mean_over_members_and_checkpoints():
    """Means of one: sN 2, sA 8, tN 5, tA 7. Of both: 8, 6, 4, 8, so AUC source 1/4 (a tie), target 1, pAUC 1/2."""
    one, both = results().systems
    assert (one.scores, both.scores) == (4, 8)
    assert one.official == 1
    assert both.official == pytest.approx(3 / (4 + 1 + 2))
    assert both.places[0].figures == pytest.approx(
        {"auc_source": 1 / 4, "auc_target": 1, "pauc": 1 / 2, "hmean": 3 / 7}
    )


def test_seeds_are_evaluated_alone():
    one = results().systems[0]
    assert one.seed_scores == pytest.approx([SEED_0, 1])
    assert one.seed_mean == pytest.approx((SEED_0 + 1) / 2)
    assert one.seed_std == pytest.approx((1 - SEED_0) / math.sqrt(2))  # of two: the difference by root 2


def test_a_member_alone_is_its_seed_of_a_row_of_one_group():
    alone = [member_figures(member, CLIPS, scores(), "distance") for member in GROUPS["g"]]
    assert [figures["official"] for figures in alone] == pytest.approx([SEED_0, 1])
    assert alone[1] == {"official": 1, **{f"fan/{name}": 1 for name in ("auc_source", "auc_target", "pauc", "hmean")}}
    clips = unlabelled()
    assert member_figures(GROUPS["g"][0], clips, scores(clips), "distance") == {}


def test_one_seed_has_no_spread():
    groups = {group: members[:1] for group, members in GROUPS.items()}
    one = make_results(study(seeds=[0]), CLIPS, groups, scores()).systems[0]
    assert one.seed_scores == pytest.approx([SEED_0])
    assert one.official == pytest.approx(SEED_0)
    assert one.seed_std is None


def test_other_rules_are_reported_beside_and_change_nothing():
    """Of both. Median: 8, 6, 4, 8.5, so AUC 1/2 and 1, pAUC 14/19. Sums of ranks: 19, 21, 15.5, 23, which is perfect.

    Every member's training clips have the same mean and spread, so the z-normalised mean is the mean, scaled.
    """
    both = results().systems[1]
    assert both.rules == pytest.approx({"median": 42 / 61, "rank_mean": 1, "z_mean": 3 / 7})
    alone = results(ensemble={"also": ["median"]}).systems[1]
    assert list(alone.rules) == ["median"]
    assert (alone.official, alone.challenge) == (both.official, both.challenge)


def test_a_machine_without_truth_has_no_figures_and_does_not_count():
    one = results().systems[0]
    assert [place.name for place in one.places] == ["fan", "pump"]
    assert set(one.places[1].figures.values()) == {None}
    assert list(one.result.sections) == [("fan", "00")]


def test_sections_are_named_where_a_machine_has_several():
    machine = ["fan" if name == "pump" else name for name in CLIPS["machine"].to_pylist()]
    section = ["01" if name == "pump" else "00" for name in CLIPS["machine"].to_pylist()]
    clips = column("machine", machine).set_column(2, "section", [section])
    one = results(clips).systems[0]
    assert [place.name for place in one.places] == ["fan 00", "fan 01"]
    assert [place.threshold for place in one.places] == pytest.approx([5.6, 5])


def test_a_member_without_scores_stops_the_results():
    table = scores()
    lost = GROUPS["h"][1].hash
    kept = table.filter(pa.array([member != lost for member in table["member"].to_pylist()]))
    with pytest.raises(DataError, match=rf"{lost} epoch 1.*run `asd run STUDY` again"):
        make_results(study(), CLIPS, GROUPS, kept)


# Decisions


def test_decisions_are_above_the_percentile_of_source_training_scores():
    """The fan's source training clips have 2 and 6; nine tenths of the way is 5.6. The target clip's 0 says nothing."""
    one, both = results().systems
    assert one.places[0].threshold == both.places[0].threshold == pytest.approx(5.6)
    assert one.challenge["score"].to_pylist() == [2, 8, 5, 7, 5, 6]
    assert one.challenge["decision"].to_pylist() == [0, 1, 0, 1, 0, 1]  # the pump's 5 is at its threshold, not above
    assert both.challenge["decision"].to_pylist()[:4] == [1, 1, 0, 1]


def test_the_percentile_is_the_studys():
    one = results(ensemble={"percentile": 25}).systems[0]
    assert one.places[0].threshold == pytest.approx(3)
    assert one.challenge["decision"].to_pylist()[:4] == [0, 1, 1, 1]


def test_training_clips_of_unknown_domain_count_as_source():
    domain = ["unknown" if d == "source" else d for d in CLIPS["domain"].to_pylist()]
    assert results(column("domain", domain)).systems[0].places[0].threshold == pytest.approx(5.6)


# Files and tables


def test_files_hold_what_the_results_say(tmp_path):
    found = results()
    write_results(found, CLIPS, Store.at(tmp_path))
    folder = tmp_path / "systems/both"
    labelled = [row for row in found.systems[1].challenge.to_pylist() if row["machine"] == "fan"]
    truth = pa.Table.from_pylist([{name: row[name] for name in TRUTH_SCHEMA.names} for row in labelled])
    assert evaluate_folder(folder, truth, ["fan"]) == found.systems[1].result
    assert "official score,,0.42857142857142855" in (folder / "official_result.csv").read_text()
    header, *thresholds = csv.reader((folder / "thresholds.csv").open())
    assert header == ["machine", "threshold"]
    assert [(name, float(value)) for name, value in thresholds] == [("fan", pytest.approx(5.6)), ("pump", 5)]
    assert (folder / "anomaly_score_pump_section_00_test.csv").read_text() == (
        "section_00_test_0000.wav,5.0\nsection_00_test_0001.wav,6.0\n"
    )
    assert Store.at(tmp_path).read_table("scores.parquet").equals(found.scores)
    kept = Store.at(folder).read_table("test_scores.parquet")
    assert kept.column_names == [*found.systems[1].challenge.column_names, "seed_0", "seed_1"]
    assert kept["seed_0"].to_pylist()[:4] == [8, 6, 4.5, 6.5]  # the mean of (2, 8, 6, 4) and (14, 4, 3, 9)


def test_unlabelled_clips_give_files_and_no_figures(tmp_path):
    found = results(unlabelled())
    one = found.systems[0]
    assert (one.official, one.seed_scores, one.seed_mean, one.seed_std, one.result) == (None, [], None, None, None)
    assert set(one.rules.values()) == {None}
    write_results(found, unlabelled(), Store.at(tmp_path))
    names = {path.name for path in (tmp_path / "systems/one").iterdir()}
    places = ("fan_section_00", "pump_section_00")
    files = {f"{kind}_{place}_test.csv" for kind in ("anomaly_score", "decision_result") for place in places}
    assert names == files | {"thresholds.csv", "test_scores.parquet"}
    assert table_rows(found)[1] == ["One", "4", *[""] * 8, "66.24"]
    assert results_table(found).row_count == 2


HEADER = ["system", "scores", "official", "seeds mean", "seeds std", "fan", "pump"]


def test_the_table_is_in_percent(tmp_path):
    header, one, both = table_rows(results())
    assert header == [*HEADER, "median", "rank_mean", "z_mean", "published"]
    assert one == ["One", "4", "100.00", "84.43", "22.02", "100.00", "", "100.00", "100.00", "100.00", "66.24"]
    assert [both[0], both[2], both[7], both[-1]] == ["both", "42.86", "68.85", ""]
    write_results(results(), CLIPS, Store.at(tmp_path))
    assert list(csv.reader((tmp_path / "results.csv").open())) == [header, one, both]
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert lines[:3] == [f"| {' | '.join(row)} |" for row in (header, ["---"] * 11, one)]


def test_a_study_that_reproduces_nothing_has_no_column_for_it():
    found = results(systems={"one": {"groups": ["g"]}})
    assert "published" not in table_rows(found)[0]


def test_the_terminal_shows_the_best_of_each_column_bold():
    table = results_table(results())
    assert [column.header for column in table.columns] == [*HEADER, "published"]
    style = {column.header: [cell.style for cell in column.cells if isinstance(cell, Text)] for column in table.columns}
    assert style["official"] == style["fan"] == ["bold", ""]
    assert style["seeds std"] == style["published"] == style["pump"] == style["scores"] == ["", ""]
