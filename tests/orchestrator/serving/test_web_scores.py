"""Scores of uploads: the study's own, and a reason for whatever is no recording or would fill the memory."""

import base64
import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_world import clips_of_tests, sound, wav
from web_world import LocalBackend, Site, site

from orchestrator.data.audio import BadClip, _resample, _resample_at_once
from orchestrator.serving.web.hearing import hear
from orchestrator.serving.web.limits import Limits
from orchestrator.serving.web.scoring import Heard, _groups
from orchestrator.serving.web.spectrogram import MOST_COLUMNS, draw

RNG = np.random.default_rng(2)
GOOD = wav(sound(900, RNG))
KINDS = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}


@pytest.fixture(scope="module")
def service(exported: Path) -> Iterator[Site]:
    with site(LocalBackend(exported, 5.0), Limits(max_seconds=5.0)) as running:
        yield running


def test_scores_and_decisions_are_the_studys(service: Site, study: Path) -> None:
    rows, _ = clips_of_tests(study, "both")
    for machine, section in (("fan", "00"), ("fan", "01"), ("pump", "00")):
        mine = [r for r in rows.to_pylist() if (r["machine"], r["section"]) == (machine, section)]
        files = [(Path(row["path"]).name, Path(row["path"]).read_bytes()) for row in mine]
        clips = service.score(*files, machine=machine, section=section).json["clips"]
        assert [clip["file"] for clip in clips] == [name for name, _ in files]
        np.testing.assert_allclose([c["score"] for c in clips], [r["score"] for r in mine], rtol=0, atol=1e-5)
        assert [c["decision"] == "anomaly" for c in clips] == [bool(r["decision"]) for r in mine]
        assert all(c["problem"] == "" and c["spectrogram"] is None for c in clips)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../x.wav", bytes(50 << 20))
    return buffer.getvalue()


def test_a_bad_recording_is_a_row_among_good_ones(service: Site) -> None:
    bad = {
        "bomb.zip": (zipped(), "a ZIP archive, not a WAV, FLAC, OGG or MP3 file: send the recordings themselves"),
        "../../etc/passwd": (b"root:x:0:0", "not a WAV, FLAC, OGG or MP3 file"),
        "<script>.html": (b"<html>", "not a WAV, FLAC, OGG or MP3 file"),
        "empty.wav": (b"", "empty file"),
        "half.wav": (GOOD[: len(GOOD) // 2], "truncated: header promises"),
        "long.wav": (wav(np.tile(sound(900, RNG), 7)), "too long: 5.6 s, at most 5 s are allowed"),
        "silent.wav": (wav(np.zeros(16_000)), "silent"),
        "sound.aiff": (wav(sound(900, RNG), format="AIFF"), "not a WAV, FLAC, OGG or MP3 file"),
        "many.wav": (wav(RNG.normal(0, 0.1, (1600, 65))), "65 channels, at most 64 are allowed"),
    }
    reply = service.score(("a.wav", GOOD), *((n, data) for n, (data, _) in bad.items()), ("z", GOOD), machine="pump")
    assert reply.status == 200
    first, *rows, last = reply.json["clips"]
    assert first["score"] == last["score"] is not None
    assert [row["file"] for row in rows] == list(bad)
    for row, (_, reason) in zip(rows, bad.values(), strict=True):
        assert row["problem"].startswith(reason)
        assert row["score"] is row["decision"] is row["threshold"] is None


def test_no_usable_recording_is_an_answer_too(service: Site) -> None:
    reply = service.score(("x", b"noise"), machine="pump")
    assert (reply.status, reply.json["clips"][0]["problem"]) == (200, "not a WAV, FLAC, OGG or MP3 file")


def quiet(kind: str, rate: int, seconds: int) -> bytes:
    """A recording that is small as a file; in blocks, as the library's Vorbis encoder crashes on long ones."""
    wave = np.zeros(rate, np.int16)
    wave[0] = 1000
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, format=kind, subtype=KINDS[kind]) as file:
        for _ in range(seconds):
            file.write(wave)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "rate"), [("FLAC", 48_000), ("OGG", 48_000), ("MP3", 32_000), ("FLAC", 16_000)])
def test_hours_in_a_small_file_are_not_decoded(service: Site, kind: str, rate: int) -> None:
    bomb = quiet(kind, rate, 120)
    started = time.monotonic()
    (row,) = service.score(("bomb", bomb), machine="pump").json["clips"]
    assert row["problem"].startswith("too long")
    assert time.monotonic() - started < 5


def test_a_high_rate_is_no_way_to_fill_the_memory() -> None:
    """200 s at 192 kHz are within the seconds, but would be decoded to 300 MB and resampled with 5 GB."""
    bomb = quiet("FLAC", 192_000, 200)
    assert len(bomb) < 1 << 20
    before = psutil.Process().memory_info().rss
    with pytest.raises(BadClip, match="too long: 200 s, at most 150 s"):
        hear(bomb, min_seconds=0.1, max_seconds=600)
    assert psutil.Process().memory_info().rss - before < 100 << 20


@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_resampling_in_blocks_is_resampling(rate: int) -> None:
    wave = RNG.normal(0, 0.1, 2_200_001)
    blocks, whole = _resample(wave, rate), _resample_at_once(wave, rate)
    assert abs(len(blocks) - len(whole)) <= 1  # torchaudio rounds the length in single precision
    size = min(len(blocks), len(whole))
    np.testing.assert_array_equal(np.rint(blocks[:size] * 32768), np.rint(whole[:size] * 32768))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(list(KINDS)))
def test_damaged_files_are_rows(service: Site, data: st.DataObject, kind: str) -> None:
    file = bytearray(wav(sound(900, np.random.default_rng(0)), format=kind, subtype=KINDS[kind]))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, min(len(file) - 1, 200)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(file)))
    reply = service.score(("x", bytes(file[:cut])), machine="pump")
    (row,) = reply.json["clips"]
    assert reply.status == 200
    assert (row["score"] is None) == bool(row["problem"])


def test_a_spectrogram_comes_where_it_is_asked_for(service: Site) -> None:
    (row,) = service.score(("a.wav", GOOD), machine="pump", spectrogram="true").json["clips"]
    picture = row["spectrogram"]
    levels = np.frombuffer(base64.b64decode(picture["data"]), np.uint8)
    levels = levels.reshape(picture["bands"], picture["columns"])
    assert picture["seconds"] == row["seconds"] == 0.8
    assert levels.max() == 255
    loudest = levels.mean(axis=1).argmax()  # 900 Hz is the 31st of 128 bands: 14.9 mel at 66.7 Hz, 45.2 mel at 8 kHz
    assert 28 <= loudest <= 45


def test_a_long_spectrogram_has_no_more_columns() -> None:
    picture = draw((RNG.normal(0, 1000, 16_000 * 130)).astype(np.int16))
    assert (picture.columns, picture.bands) == (MOST_COLUMNS, 128)
    assert picture.seconds == 130


def test_long_clips_are_scored_in_small_groups() -> None:
    minute = np.zeros(16_000 * 60, np.int16)
    clips = [Heard(None, np.tile(minute, n), 60.0 * n, None) for n in (4, 5, 2, 12, 1)]
    assert [[round(clip.seconds / 60) for clip in group] for group in _groups(clips)] == [[4, 5], [2], [12], [1]]
