"""A system's score: every rule by hand, and no member is left out in silence."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from orchestrator.ensemble import RULES, mean, median, rank_mean, score_matrix, z_mean
from orchestrator.errors import DataError
from orchestrator.members import Member
from orchestrator.recipes import AutoencoderRecipe, ExtractorRecipe

# Two machines, in an order that mixes them: a fan clip, a pump clip, and so on.
CLIPS = pa.table(
    {
        "clip_id": ["f0", "p0", "f1", "p1", "f2", "p2"],
        "machine": ["fan", "pump"] * 3,
        "section": ["00"] * 6,
        "split": ["train", "train", "train", "train", "test", "test"],
        "domain": ["source"] * 6,
    }
)
FAN, PUMP = [0, 2, 4], [1, 3, 5]


def member(name, seed=0, epochs=(1,)):
    recipe = ExtractorRecipe(epochs=max(epochs), checkpoints=epochs)
    return Member(name, seed, recipe, name, "data")  # the name stands for what it learned


def rows(member, values, epoch=1, clips=CLIPS, output="distance"):
    ids = clips["clip_id"].to_pylist()
    told = {"member": member.hash, "seed": member.seed, "epoch": epoch, "output": output}
    return [{**told, "clip_id": clip, "score": float(value)} for clip, value in zip(ids, values, strict=True)]


def scores(*parts):
    return pa.Table.from_pylist([row for part in parts for row in part])


# Gathering members


A, B = member("a"), member("b")


def test_a_row_for_each_member_and_checkpoint_in_the_order_of_the_clips():
    late = member("a", epochs=(1, 2))
    table = scores(rows(B, range(6)), rows(late, range(10, 16), epoch=2), rows(late, range(20, 26)))
    matrix = score_matrix(table.take([5, 17, 0, *range(1, 5), *range(6, 17)]), [late, B], CLIPS, "distance")
    assert sorted(matrix.tolist()) == [[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15], [20, 21, 22, 23, 24, 25]]


def test_members_of_other_systems_seeds_and_outputs_do_not_count():
    b = member("b", seed=1)
    table = scores(rows(A, [1] * 6), rows(b, [2] * 6), rows(member("c"), [9] * 6), rows(A, [7] * 6, output="mse"))
    assert score_matrix(table, [A, b], CLIPS, "distance").mean() == 1.5
    assert score_matrix(table, [A, b], CLIPS, "distance", seed=1).tolist() == [[2] * 6]
    assert score_matrix(table, [A], CLIPS, "mse").tolist() == [[7] * 6]


def test_members_of_one_machine_each_fill_a_row_together():
    recipe = AutoencoderRecipe(kind="autoencoder", epochs=1)
    fan, pump = (Member("ae", 0, recipe, "", machine, machine) for machine in ("fan", "pump"))
    table = scores(rows(fan, [1, 2, 3], clips=CLIPS.take(FAN)), rows(pump, [4, 5, 6], clips=CLIPS.take(PUMP)))
    assert score_matrix(table, [fan, pump], CLIPS, "distance").tolist() == [[1, 4, 2, 5, 3, 6]]
    with pytest.raises(DataError, match="misses clips"):
        score_matrix(table, [fan], CLIPS, "distance")


def test_a_member_or_a_checkpoint_without_any_score_is_missed():
    table = scores(rows(A, range(6)))
    with pytest.raises(DataError, match=rf"{B.hash} epoch 1.*run `asd run STUDY` again"):
        score_matrix(table, [A, B], CLIPS, "distance")
    late = member("a", epochs=(1, 2))
    with pytest.raises(DataError, match=rf"of {late.hash} epoch 2; run"):
        score_matrix(scores(rows(late, range(6))), [late], CLIPS, "distance")
    with pytest.raises(DataError, match="run `asd run STUDY` again"):
        score_matrix(table, [A], CLIPS, "distance", seed=5)


def test_a_clip_that_a_member_did_not_score_is_missed():
    table = scores(rows(A, range(6)), rows(B, range(6))[:-1])
    with pytest.raises(DataError, match=rf"misses clips.*{B.hash}"):
        score_matrix(table, [A, B], CLIPS, "distance")


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_missed(score):
    with pytest.raises(DataError, match="misses clips, or finite scores"):
        score_matrix(scores(rows(A, [0, 1, score, 3, 4, 5])), [A], CLIPS, "distance")


def test_scores_of_clips_that_are_not_of_the_study_do_not_count():
    table = scores(rows(A, range(6)))
    assert score_matrix(table, [A], CLIPS.slice(1, 3), "distance").tolist() == [[1, 2, 3]]


# The rules

SCORE_KN = np.array([[1, 10, 3, 30, 8, 20], [4, 0, 2, 0, 6, 3], [1, 5, 7, 6, 1, 70]], dtype=float)


def test_mean_and_median_by_hand():
    assert mean(SCORE_KN, CLIPS) == pytest.approx([2, 5, 4, 12, 5, 31])
    assert median(SCORE_KN, CLIPS) == pytest.approx([1, 5, 3, 6, 6, 20])


def test_rank_mean_by_hand():
    """Ranks of the fan: (1,2,3), (2,1,3), (1.5,3,1.5); of the pump: (1,3,2), (1.5,1.5,3), (1,2,3); thirds of them."""
    got = rank_mean(SCORE_KN, CLIPS)
    assert got[FAN] == pytest.approx(np.array([4.5, 6, 7.5]) / 9)
    assert got[PUMP] == pytest.approx(np.array([3.5, 6.5, 8]) / 9)


def test_z_mean_by_hand():
    """Member 1, fan: training 1 and 3, so (score - 2) / 1; member 2: training 4 and 2, so (score - 3) / 1."""
    got = z_mean(SCORE_KN[:2], CLIPS)
    assert got[FAN] == pytest.approx([0, 0, (6 + 3) / 2])
    wide = z_mean(SCORE_KN[:1], CLIPS)  # pump: training 10 and 30
    assert wide[PUMP] == pytest.approx([-1, 1, 0])


def test_z_mean_leaves_target_training_clips_out():
    """A target training clip is its own reference, at 0: it must not move the member's mean."""
    clips = pa.table(
        {
            "machine": ["fan"] * 4,
            "section": ["00"] * 4,
            "split": ["train", "train", "train", "test"],
            "domain": ["source", "source", "target", "source"],
        }
    )
    assert z_mean(np.array([[1.0, 3, 0, 8]]), clips) == pytest.approx([-1, 1, -2, 6])


def test_z_mean_without_source_training_clips_standardises_by_all_clips():
    clips = CLIPS.set_column(4, "domain", [["target"] * 6])
    assert z_mean(SCORE_KN[:1], clips)[PUMP] == pytest.approx([-(1.5**0.5), 1.5**0.5, 0])


def test_z_mean_of_a_member_that_knows_no_difference_is_finite():
    assert z_mean(np.ones((2, 6)), CLIPS).tolist() == [0] * 6


def test_one_wild_member_moves_the_mean_and_not_the_other_rules():
    """The third member says the reverse, a million times louder."""
    quiet = np.array([[1.0, 1, 2, 2, 3, 3]] * 2)
    wild = np.vstack([quiet, -1e6 * quiet[:1]])
    order = {name: np.argsort(rule(wild, CLIPS)[FAN]).tolist() for name, rule in RULES.items()}
    assert order == {"mean": [2, 1, 0], "median": [0, 1, 2], "rank_mean": [0, 1, 2], "z_mean": [0, 1, 2]}


def test_one_member_alone_keeps_its_order_by_every_rule():
    for rule in RULES.values():
        for place in (FAN, PUMP):
            assert np.argsort(rule(SCORE_KN[:1], CLIPS)[place]).tolist() == np.argsort(SCORE_KN[0, place]).tolist()


@pytest.mark.parametrize("name", sorted(RULES))
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_order_of_members_and_of_clips_does_not_matter(name, data):
    score_KN = data.draw(npst.arrays(float, (3, 6), elements=st.integers(-8, 8).map(float)))
    clip_order = data.draw(st.permutations(range(6)))
    expected = RULES[name](score_KN, CLIPS)
    assert RULES[name](score_KN[::-1], CLIPS) == pytest.approx(expected)
    assert RULES[name](score_KN[:, clip_order], CLIPS.take(clip_order)) == pytest.approx(expected[clip_order])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(npst.arrays(float, (3, 6), elements=st.integers(-8, 8).map(float)), st.floats(0.5, 4), st.floats(-5, 5))
def test_rank_mean_and_z_mean_know_no_scale(score_KN, factor, shift):
    """A member may be rescaled as a whole; ranks stay in (0, 1]."""
    score_KN[:, [0, 1]] -= 20  # the two training clips of a machine differ, so their spread is not 0
    moved = score_KN.copy()
    moved[0] = factor * moved[0] + shift
    for rule in (rank_mean, z_mean):
        assert rule(moved, CLIPS) == pytest.approx(rule(score_KN, CLIPS), abs=1e-9)
    assert np.all((rank_mean(score_KN, CLIPS) > 0) & (rank_mean(score_KN, CLIPS) <= 1))
