"""What trials are judged by: the official score, and the figure that needs no anomalies."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from orchestrator.config import BackendConfig
from orchestrator.data.packing import pack
from orchestrator.data.waves import WaveBank
from orchestrator.tuning.figures import development_rows, held_out_distances, label_free, official, summarise
from orchestrator.tuning.pseudo_anomalies import BlendBank, draw_pairs, folds, train_places

BACKEND = BackendConfig(clusters=2, n_init=2)


def clips(machine: str, labels: str, train: int = 0) -> list[dict[str, str]]:
    """Test clips by letters: n(ormal), a(nomaly), u(nknown); every second one is of the target domain."""
    names = {"n": "normal", "a": "anomaly", "u": "unknown"}
    rows = [{"split": "train", "label": "normal", "domain": "source" if i % 4 else "target"} for i in range(train)]
    rows += [{"split": "test", "label": names[k], "domain": ("source", "target")[i % 2]} for i, k in enumerate(labels)]
    return [{"machine": machine, "section": "00", **row} for row in rows]


def table(*rows: list[dict[str, str]]) -> pa.Table:
    return pa.Table.from_pylist([row for part in rows for row in part])


def test_development_machines_have_both_kinds_of_known_clips() -> None:
    known = table(clips("fan", "nnaa", 2), clips("pump", "nnn"), clips("valve", "aaa"), clips("toy", "nauu"))
    assert [known["machine"][int(row)].as_py() for row in development_rows(known)] == ["fan"] * 4 + ["toy"] * 2
    assert official(table(clips("pump", "nuuu", 2)), np.zeros(6)) is None


def test_the_official_score_by_hand() -> None:
    data = table(clips("fan", "nnaa"), clips("pump", "nnn"))
    # source and target normals at 1 and 3, anomalies at 2 and 4: AUCs 1 and 0.5; pAUC at p = 0.1 is 0.5 standardised:
    # no false positive below the first two: one of two anomalies is found, area 0.5 p, (0.5 p - p^2/2) / (p - p^2/2)
    score = np.array([1.0, 3.0, 2.0, 4.0, 9.0, 9.0, 9.0])
    p = 0.1
    pauc = 0.5 * (1 + (0.5 * p - p**2 / 2) / (p - p**2 / 2))
    assert official(data, score) == pytest.approx(3 / (1 / 1 + 1 / 0.5 + 1 / pauc))


def test_seeds_and_their_mean() -> None:
    data = table(clips("fan", "nnaa"))
    good, bad = np.array([0.0, 1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0, 0.0])
    figures = summarise(data, {0: [good, good], 1: [0.1 * bad]}, label_free=None)
    assert figures.official == pytest.approx(1.0)  # the good seed's scores are larger
    alone = [official(data, score) or 0.0 for score in (good, bad)]
    assert figures.seeds_mean == pytest.approx(np.mean(alone))
    assert figures.seeds_std == pytest.approx(np.std(alone, ddof=1))
    assert "label_free" not in figures.known()


def test_networks_of_one_machine_each_fill_one_row() -> None:
    data = table(clips("fan", "na"), clips("pump", "na"))
    nan = np.nan
    figures = summarise(data, {0: [np.array([0, 1, nan, nan]), np.array([nan, nan, 0, 1])]}, label_free=None)
    assert figures.official == official(data, np.array([0.0, 1, 0, 1]))


def test_folds_spread_both_domains() -> None:
    data = table(clips("fan", "", train=16))
    rows = train_places(data)["fan", "00"]
    fold = folds(data, rows, 4)
    target = np.array([domain == "target" for domain in data["domain"].to_pylist()])
    for each in range(4):
        assert (fold == each).sum() == 4
        assert target[fold == each].sum() == 1


def embeddings(kind: str) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """24 training clips of two machines in opposite corners, and blends: far from both, or in their own place."""
    data = table(clips("fan", "", train=12), clips("pump", "", train=12))
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(8)[:2], 12, axis=0)
    embed = centres + 0.01 * random.standard_normal((24, 8))
    blends = {"far": np.tile(np.eye(8)[5], (24, 1)), "same": centres}[kind] + 0.01 * random.standard_normal((24, 8))
    return data, embed, blends


def test_blends_that_stand_apart_are_all_found_and_those_that_do_not_are_guessed() -> None:
    data, embed, blends = embeddings("far")
    scores = held_out_distances(embed, blends, data, BACKEND, seed=0)
    assert label_free(data, [scores[0]], [scores[1]]) == pytest.approx(1.0)
    data, embed, blends = embeddings("same")
    scores = held_out_distances(embed, blends, data, BACKEND, seed=0)
    assert label_free(data, [scores[0]], [scores[1]]) == pytest.approx(0.5, abs=0.12)


def test_no_clip_meets_references_made_of_itself() -> None:
    """A target training clip is its own reference when scored as `asd run` does, at distance 0; here it is held out."""
    data, embed, blends = embeddings("far")
    normal, _ = held_out_distances(embed, blends, data, BACKEND, seed=0)
    assert (normal > 1e-7).all()
    lonely = table(clips("fan", "", train=1), clips("pump", "", train=4))
    normal, _ = held_out_distances(embed[:5], blends[:5], lonely, BACKEND, seed=0)
    assert np.isnan(normal).tolist() == [True, False, False, False, False]


def test_a_blend_is_the_clip_and_another_machines_sound_at_the_given_level() -> None:
    data = table(clips("fan", "n", train=3), clips("pump", "", train=3))
    random = np.random.default_rng(1)
    bank = WaveBank([pack([random.normal(0, s, 4000).astype(np.int16) for s in (3000, 900, 50, 700, 5000, 100, 800)])])
    pairs = draw_pairs(data)
    machine = np.array(data["machine"].to_pylist())
    assert pairs.rows_A.tolist() == [0, 1, 2, 4, 5, 6]
    assert (machine[pairs.rows_A] != machine[pairs.others_A]).all()
    blends = BlendBank(bank, pairs, snr_db=6.0)
    rows = torch.arange(len(blends))
    own = bank.cut(torch.from_numpy(pairs.rows_A), 4000)
    added = blends.cut(rows, 4000) - own
    snr = 10 * torch.log10(own.square().mean(dim=1) / added.square().mean(dim=1))
    assert snr.tolist() == pytest.approx([6.0] * 6, abs=1e-3)
    with pytest.raises(ValueError, match="only machine"):
        draw_pairs(table(clips("fan", "", train=2)))
