"""Rows for recordings: figures or a reason, in order, whatever the threads."""

import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from serving_world import clips_of_tests, sound, wav

from orchestrator.serving import stream
from orchestrator.serving.answers import Answer, Recording, answer
from orchestrator.serving.bundle import Bundle
from orchestrator.serving.output import Writer, printable
from orchestrator.serving.stream import FileAnswer, score_files

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def scorer(exported: Path):
    return Bundle.load(exported).scorer()


def test_a_bad_recording_is_a_row_among_good_ones(scorer):
    good = wav(sound(900, RNG))
    rows = answer(
        scorer,
        [
            Recording(good, "pump"),
            Recording(b"noise", "pump"),
            Recording(good, "valve"),
            Recording(good, None),
            Recording(b"", "pump", None, "cannot read: Permission denied"),
            Recording(good, "fan", "07"),
            Recording(wav(np.zeros(16_000)), "pump"),
            Recording(wav(sound(900, RNG, 0.05)), "pump"),
            Recording(good, "pump", "55"),
        ],
    )
    assert [row.problem for row in rows] == [
        "",
        "not readable audio: Format not recognised",
        "machine 'valve' is unknown to this model; it knows fan, pump",
        "no machine given; this model knows fan, pump",
        "cannot read: Permission denied",
        "fan needs one of its sections 00, 01, not '07'",
        "silent: all samples are equal",
        "too short: 0.05 s, at least 0.1 s needed",
        "",
    ]
    assert rows[0] == rows[8]
    assert rows[0].section == "00"
    assert all(row.score is None and row.decision is None for row in rows if row.problem)


def test_a_long_recording_scores_by_its_beginning(scorer):
    """Clips are cropped from the start to the longest that a member looks at, 1 s (spec §2)."""
    wave = sound(900, RNG, 3.0)
    long, short = answer(scorer, [Recording(wav(wave), "pump"), Recording(wav(wave[:16000]), "pump")])
    assert long == short


def test_flac_and_other_rates(scorer):
    wave = sound(900, RNG)
    as_wav, as_flac, at_48k = answer(
        scorer,
        [
            Recording(wav(wave), "pump"),
            Recording(wav(wave, format="FLAC"), "pump"),
            Recording(wav(np.repeat(wave, 3), 48000), "pump"),
        ],
    )
    assert as_flac._replace(score=None) == as_wav._replace(score=None)
    assert as_flac.score == pytest.approx(as_wav.score, abs=1e-5)
    assert at_48k.problem == ""


@pytest.mark.parametrize("threads", [1, 3])
def test_files_are_answered_in_order_with_the_studys_scores(study, scorer, monkeypatch, threads):
    monkeypatch.setattr(stream, "CHUNK_FILES", 5)
    rows, _ = clips_of_tests(study, "both")
    files = rows["path"].to_pylist()
    found = list(score_files([*files, "gone.wav"], scorer, threads=threads))
    assert [row.file for row in found] == [*files, "gone.wav"]
    assert found[-1].answer.problem
    scores = [row.answer.score for row in found[:-1]]
    np.testing.assert_allclose(scores, rows["score"].to_numpy(), rtol=0, atol=1e-6)


def test_reading_does_not_run_ahead_of_the_answers(scorer, monkeypatch):
    """Of 100 chunks of one file, at most threads + 1 are begun before the first answer is taken, 1 more for each."""
    begun, lock = [], threading.Lock()

    def read(file, known, machine):
        with lock:
            begun.append(file)
        return Recording(b"", "fan", "00", "stop")

    monkeypatch.setattr(stream, "CHUNK_FILES", 1)
    monkeypatch.setattr(stream, "read_recording", read)
    rows = score_files([str(i) for i in range(100)], scorer, threads=2)
    for taken in range(1, 6):
        next(rows)
        assert len(begun) <= taken + 2
    rows.close()
    assert len(begun) < 10


GOOD = FileAnswer("fan/a.wav", Answer("fan", "00", 0.25, 0.5, "normal", 12.5, ""))
BAD = FileAnswer("b\x1b[2J.wav", Answer("", "", None, None, None, None, "empty file"))


def written(kind: str) -> list[str]:
    sink = io.StringIO()
    writer = Writer(sink, kind, ["fan", "gearbox"])
    for row in (GOOD, BAD):
        writer.write(row)
    return sink.getvalue().splitlines()


def test_rows_as_csv():
    header, good, bad = written("csv")
    assert header == "file,machine,section,score,threshold,decision,percentile,problem"
    assert good == "fan/a.wav,fan,00,0.25,0.5,normal,12.5,"
    assert bad.endswith("b\x1b[2J.wav,,,,,,,empty file")


def test_rows_as_json_lines():
    good, bad = map(json.loads, written("jsonl"))
    assert good["score"] == 0.25
    assert bad == {"file": "b\x1b[2J.wav", **BAD.answer._asdict()}
    assert bad["score"] is None


def test_rows_as_a_table_hold_no_control_codes():
    header, good, bad = written("table")
    assert header.split() == ["score", "threshold", "decision", "percentile", "machine", "file"]
    assert good.split() == ["0.25", "0.5", "normal", "12.5", "fan", "fan/a.wav"]
    assert bad.split(None, 1) == ["problem", f"{'':<12} {'':<7}  b\\x1b[2J.wav: empty file".strip()]
    assert printable("é.wav") == "é.wav"
