"""What members add is recomputed by hand; correlations are SciPy's; losses are what the folders hold."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

from models.metrics import official_score, section_figures
from orchestrator.errors import DataError
from orchestrator.report.contents import Contents, SystemRow
from orchestrator.report.embeddings import encoder_spaces, plane, plot, reference_space
from orchestrator.report.ensembles import Voice, correlation, mean_of, official_of, shares, voices_of
from orchestrator.report.rows import row_views
from orchestrator.report.training_curves import read_history, training_groups
from orchestrator.storage import Store


def by_name(contents: Contents, name: str) -> SystemRow:
    return next(row for row in contents.rows if row.name == name)


def by_hand(score_N: np.ndarray, test: pa.Table) -> float:
    """The official score with nothing but NumPy and the metrics of a section."""
    machine, anomaly, target = (np.array(test[name].to_pylist()) for name in ("machine", "is_anomaly", "is_target"))
    places = [machine == name for name in sorted(set(machine))]
    found = official_score([section_figures(anomaly[at], target[at], score_N[at]) for at in places])
    assert found is not None
    return found


def test_leave_one_out_by_hand(contents: Contents) -> None:
    row = by_name(contents, "all")
    voices = voices_of(contents, row)
    assert [(voice.group, voice.seed, voice.checkpoints) for voice in voices] == [
        (group, seed, 2) for group in ("plain", "pa", "pa-as") for seed in (0, 1)
    ]
    np.testing.assert_allclose(mean_of(voices), row.test["score"].to_numpy())
    found = shares(voices, row.test, [voice.title for voice in voices])
    for i, share in enumerate(found):
        others = np.mean([voice.score_N for j, voice in enumerate(voices) if j != i], axis=0)
        assert share.without == pytest.approx(by_hand(others, row.test))
        assert share.alone == pytest.approx(by_hand(voices[i].score_N, row.test))
        assert share.adds(row.official) == pytest.approx(by_hand(mean_of(voices), row.test) - by_hand(others, row.test))
    whole = shares(voices, row.test, [voice.group for voice in voices])
    rest = np.mean([voice.score_N for voice in voices if voice.group != "pa"], axis=0)
    assert whole[1].title == "pa"
    assert whole[1].without == pytest.approx(by_hand(rest, row.test))


def test_members_with_more_checkpoints_count_more() -> None:
    one, three = np.array([0.0, 4.0]), np.array([4.0, 0.0])
    assert mean_of([Voice("a", 0, 1, one), Voice("b", 0, 3, three)]).tolist() == [3.0, 1.0]


def test_correlations_are_means_over_machines() -> None:
    rng = np.random.default_rng(0)
    score_VN = rng.integers(0, 6, (3, 40)).astype(float)
    test = pa.table({"machine": ["a"] * 25 + ["b"] * 15, "section": ["00"] * 40})
    expected = (spearmanr(score_VN[:, :25].T).statistic + spearmanr(score_VN[:, 25:].T).statistic) / 2
    np.testing.assert_allclose(correlation(score_VN, test), expected)
    silent = np.stack([score_VN[0], np.ones(40)])  # a member that gives every clip one score is like nobody
    assert np.isnan(correlation(silent, test)[0, 1])


def test_unknown_truth_gives_no_figures(contents: Contents) -> None:
    test = by_name(contents, "plain").test
    nobody = pa.array([None] * len(test), pa.bool_())
    at = test.column_names.index("is_anomaly")
    assert official_of(test["score"].to_numpy(), test.set_column(at, "is_anomaly", nobody)) is None


def test_scores_of_another_run_are_not_taken_for_the_rows(contents: Contents) -> None:
    row = by_name(contents, "plain")
    at = row.test.column_names.index("score")
    other = row._replace(test=row.test.set_column(at, "score", pa.array(row.test["score"].to_numpy() + 1)))
    with pytest.raises(DataError, match="not those that the row was made of"):
        voices_of(contents, other)


def test_autoencoders_of_all_machines_are_one_member(contents: Contents) -> None:
    (voice,) = voices_of(contents, by_name(contents, "mse"))
    assert (voice.group, voice.checkpoints) == ("ae", 1)
    assert next(view for view in row_views(contents) if view.label == "mse").no_members.startswith("The row is one")


def test_histories_of_finished_and_of_running_members(tmp_path: object) -> None:
    store = Store.at(f"{tmp_path}/member")
    assert read_history(store) == []
    rows = [{"epoch": 1, "loss": 2.5, "seconds": 1.0, "clips_per_second": 8.0}]
    state = io.BytesIO()
    torch.save({"history": rows, "model": {}}, state)
    store.write("last.pt", state.getvalue())
    assert read_history(store) == rows
    store.write_json("done.json", {"history": [*rows, *rows]})
    assert len(read_history(store)) == 2


def test_every_group_has_its_curves(contents: Contents) -> None:
    groups = training_groups(contents)
    assert [group.name for group in groups] == ["attribute-encoder", "ae", "plain", "pa", "pa-as"]
    assert all((group.done, group.total) == (2, 2) and group.picture is not None for group in groups)
    assert groups[2].seconds == 2 * 4 * 2.0
    assert groups[2].clips_per_second == 30.0


def test_the_plane_is_that_of_principal_components() -> None:
    embed_ND = np.random.default_rng(0).normal(size=(30, 5)) * np.arange(1, 6)
    found, share = plane(embed_ND)
    fit = PCA(2, svd_solver="full").fit(embed_ND)
    np.testing.assert_allclose(np.abs(found), np.abs(fit.transform(embed_ND)), atol=1e-9)
    np.testing.assert_allclose(share, fit.explained_variance_ratio_)
    for few in (np.ones((1, 4)), np.ones((3, 1)), np.zeros((5, 3))):
        flat, none = plane(few)
        assert flat.shape == (len(few), 2)
        assert np.isfinite(none).all()


def test_many_groups_share_the_last_look() -> None:
    labels = [f"g{i:02d}" for i in range(20)] + ["g00"] * 5
    found = plot(np.random.default_rng(0).normal(size=(25, 2)), labels, "label", "fan")
    assert len(found.keys) == 17
    assert found.keys[0].text == "g00 (6)"
    assert found.keys[-1].text == "4 smaller groups (4)"


def test_spaces_of_encoders_and_references(contents: Contents) -> None:
    (space,) = encoder_spaces(contents)
    assert [plot.title for plot in space.plots] == ["pseudo-label", "domain"]
    assert [key.text for key in space.plots[1].keys] == ["source (8)", "target (8)"]
    references = reference_space(contents, ["plain"])
    assert references is not None
    assert [key.text for key in references.plots[1].keys] == ["centre of source clips (8)", "target clip (16)"]
    assert reference_space(contents, ["ae"]) is None
