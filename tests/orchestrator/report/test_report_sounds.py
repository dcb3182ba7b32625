"""Which clips are there to listen to, that they fit into the page, and what is said of recordings that are gone."""

from datetime import datetime

import numpy as np

from orchestrator.report.contents import Contents
from orchestrator.report.page import render
from orchestrator.report.sounds import log_mel, lost, shelves

NOW = datetime(2026, 1, 2, 3, 4)


def test_the_extreme_clips_in_order(contents: Contents) -> None:
    row = contents.rows[1]
    found, refused = shelves(contents, row, 3)
    assert refused == 0
    for shelf in found:
        machine = np.array(row.test["machine"].to_pylist()) == shelf.machine
        order = np.sort(row.test["score"].to_numpy()[machine])
        assert [clip.score for clip in shelf.most] == order[::-1][:3].tolist()
        assert [clip.score for clip in shelf.least] == order[:3].tolist()
        assert [clip.rank for clip in shelf.least] == [16, 15, 14]
        assert all(clip.audio.startswith("data:audio/mpeg;base64,") for clip in (*shelf.most, *shelf.least))
    assert len(shelves(contents, row, 50)[0][0].most) == 8  # no clip stands on both sides


def test_the_page_stays_small(contents: Contents) -> None:
    whole, _ = shelves(contents, contents.rows[1], 2)
    one = max(len(clip.audio) + len(clip.picture) for shelf in whole for clip in (*shelf.most, *shelf.least))
    found, refused = shelves(contents, contents.rows[1], 2, budget=4 * one)
    assert refused == len(lost(found)) > 0
    assert all(shelf.most[0].audio and shelf.least[0].audio for shelf in found)  # every machine has its first two


def test_recordings_that_are_gone_or_changed_are_named(contents: Contents) -> None:
    clips = contents.clips
    at = clips.column_names.index("path")
    gone = contents._replace(clips=clips.set_column(at, "path", [["/gone.wav"] * len(clips)]))
    found, _ = shelves(gone, contents.rows[1], 1)
    assert {clip.note for clip in lost(found)} == {"the recording is no longer at /gone.wav"}
    other = clips.set_column(clips.column_names.index("digest"), "digest", [["0"] * len(clips)])
    found, _ = shelves(contents._replace(clips=other), contents.rows[1], 1)
    assert found[0].most[0].note == "the recording has changed since it was scored"
    assert "No sound" in render(gone, 1, NOW)


def test_a_tone_is_bright_in_its_band() -> None:
    low, high = (
        log_mel((8000 * np.sin(2 * np.pi * hertz * np.arange(16000) / 16000)).astype(np.int16)) for hertz in (300, 5000)
    )
    assert low.shape[0] == 64
    assert low.mean(axis=1).argmax() < 12 < 45 < high.mean(axis=1).argmax()
    assert np.isfinite(log_mel(np.zeros(10, np.int16))).all()
