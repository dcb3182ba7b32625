"""External audio: what is a source, which rows are candidates, and every container that AudioSet comes in."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import CoreSetConfig, ExternalSource
from orchestrator.data import external
from orchestrator.data.audio import BadClip, decode
from orchestrator.data.audioset import Shard, class_mids, find_shards
from orchestrator.data.audioset_classes import CANDIDATE_CLASSES
from orchestrator.data.external import chosen_samples, listed_clips
from orchestrator.data.segments import _spellings
from orchestrator.data.synth.external import SCHEMA
from orchestrator.errors import DataError

FAN, SAW, SPEECH = "/m/02x984l", "/m/01b82r", "/m/09x0r"
NOISE = np.random.default_rng(0).integers(-9000, 9000, 16000).astype(np.int16)


def encode(samples: np.ndarray, rate: int = 16000, kind: str = "WAV", subtype: str | None = None, **how: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype, **how)
    return buffer.getvalue()


def rows(*clips: tuple[str, list[str] | None, bytes | None]) -> pa.Table:
    items = [
        {"video_id": name, "audio": {"bytes": data, "path": None}, "labels": labels, "human_labels": None}
        for name, labels, data in clips
    ]
    return pa.Table.from_pylist(items, schema=SCHEMA)


def config(*sources: ExternalSource, **fields: Any) -> CoreSetConfig:
    return CoreSetConfig(sources=sources or (ExternalSource(parquet="x"),), group="g", **fields)


def parquet(*places: str | Path, **fields: Any) -> CoreSetConfig:
    return config(ExternalSource(parquet=tuple(map(str, places))), **fields)


def fault(checked: CoreSetConfig) -> str:
    with pytest.raises(DataError) as error:
        find_shards(checked)
    return str(error.value)


def test_a_folder_a_file_and_a_pattern_name_the_same_shards(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for number, place in enumerate(("b.parquet", "a.parquet", "deep/c.parquet")):
        pq.write_table(rows(*[(f"v{i}", [FAN], b"x") for i in range(number + 1)]), tmp_path / "in" / place)
    (tmp_path / "in" / "readme.txt").write_text("no shard")
    whole = find_shards(parquet(tmp_path / "in"))
    assert [(shard.name, shard.rows) for shard in whole] == [("a.parquet", 2), ("b.parquet", 1), ("c.parquet", 3)]
    one_by_one = parquet(tmp_path / "in" / "*.parquet", tmp_path / "i?" / "d*" / "c.parquet", tmp_path / "in")
    assert find_shards(one_by_one) == whole
    assert find_shards(parquet(f"file://{tmp_path}/in/deep"))[0].key == whole[2].key


def test_a_shard_is_known_by_what_it_is_and_not_by_its_place(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        pq.write_table(rows(("v", [FAN], encode(NOISE))), tmp_path / folder / "a.parquet")
    (here,), (there,) = (find_shards(parquet(tmp_path / folder)) for folder in ("here", "there"))
    assert here.key == there.key
    assert here.place != there.place
    pq.write_table(rows(("w", [FAN], encode(NOISE))), tmp_path / "there" / "a.parquet")  # as many bytes and rows
    assert find_shards(parquet(tmp_path / "there"))[0].key != here.key


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    good = rows(("v", [FAN], b"x"))
    pq.write_table(good.drop_columns("labels"), tmp_path / "no_labels.parquet")
    wrong = good.set_column(2, "labels", pa.array([[1]])).set_column(1, "audio", pa.array([b"x"]))
    pq.write_table(wrong, tmp_path / "types.parquet")
    (tmp_path / "words.parquet").write_text("no Parquet at all")
    (tmp_path / "empty").mkdir()
    pq.write_table(good.slice(0, 0), tmp_path / "empty" / "z.txt")
    (tmp_path / "segments.csv").write_text('a, 0.0, 1.0, "/m/x"\nb, zero, 1.0, "/m/x"\n')
    checked = config(
        ExternalSource(parquet=(f"{tmp_path}/*.parquet", "/nowhere/at/all", f"{tmp_path}/empty")),
        ExternalSource(audio=str(tmp_path / "gone"), segments=str(tmp_path / "segments.csv")),
        classes=("Filling", "Engine", "/m/02mk9"),
    )
    told = fault(checked)
    for expected in (
        "'Filling'; did you mean 'Filing (rasp)'",
        "no_labels.parquet: `labels` must be a list of strings (mids); it has video_id: string",
        "types.parquet: `audio` must be a struct with a binary field `bytes`, `labels` must be a list of strings",
        "words.parquet: not readable as Parquet",
        "/nowhere/at/all: no such file or folder",
        f"{tmp_path}/empty: no Parquet file there",
        "core_set.sources.1",
        "segments.csv line 2: expected `YTID, start, end",
        "no such folder",
    ):
        assert expected in told
    assert "for 8 reason(s)" in told


def test_shards_without_a_row_are_an_empty_source(tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), tmp_path / "a.parquet")
    assert "the shards hold no row" in fault(parquet(tmp_path))


def test_default_classes_need_no_list() -> None:
    assert class_mids(config()) == {mid: name for name, mid in CANDIDATE_CLASSES.items()}


def test_classes_by_short_name_mid_and_list(tmp_path: Path) -> None:
    short = class_mids(config(classes=("Propeller", "Heavy engine", "/t/dd00067", "/m/unlisted")))
    assert short == {
        "/m/02l6bg": "Propeller, airscrew",
        "/t/dd00067": "Heavy engine (low frequency)",
        "/m/unlisted": "/m/unlisted",
    }
    (tmp_path / "list.csv").write_text('index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/0k4j,"Car, parked"\n')
    listed = {"class_list": str(tmp_path / "list.csv")}
    assert class_mids(config(classes=("/m/09x0r", "Car"), **listed)) == {SPEECH: "Speech", "/m/0k4j": "Car, parked"}
    with pytest.raises(DataError, match=r"'/m/09x0s'; did you mean '/m/09x0r'"):
        class_mids(config(classes=("/m/09x0s",), **listed))
    with pytest.raises(DataError, match=r"class_list: .*no columns `mid`"):
        class_mids(config(class_list=str(Path(__file__))))


def test_the_released_class_list_knows_the_default_classes(shared: Path) -> None:
    asked = {"class_list": str(shared / "data" / "external" / "class_labels_indices.csv")}
    assert class_mids(config(**asked)) == class_mids(config())
    assert class_mids(config(classes=("Speech",), **asked)) == {SPEECH: "Speech"}


def listed(shard: Shard) -> list[tuple[int, str, str, int, str]]:
    found = listed_clips(shard, {FAN: "Fan", SAW: "Saw"}, 0.5)
    return [(c.row, c.video_id, c.mid, len(c.samples), c.problem.split(":")[0]) for c in found]


def mixed_shard(folder: Path, rows_a_group: int) -> Shard:
    wav, flac = encode(NOISE), encode(NOISE, kind="FLAC")
    clips: list[tuple[str, list[str] | None, bytes | None]] = [
        ("a", [SPEECH], b"never decoded"),
        ("b", [SPEECH, SAW, FAN], wav),
        ("c", [FAN, SAW], flac),
        ("d", None, wav),
        ("e", [FAN], None),
        ("f", [FAN], b"junk" * 30),
        ("g", [], wav),
        ("", [FAN], wav),
        ("h", [FAN], encode(NOISE[:100])),
    ]
    pq.write_table(rows(*clips), folder / "m.parquet", row_group_size=rows_a_group)
    return find_shards(parquet(folder))[0]


@pytest.mark.parametrize("rows_a_group", [1, 3, 100])
def test_only_listed_rows_come_and_bad_ones_with_a_reason(tmp_path: Path, rows_a_group: int) -> None:
    assert listed(mixed_shard(tmp_path, rows_a_group)) == [
        (1, "b", SAW, 16000, ""),  # the first of its own labels that is asked for
        (2, "c", FAN, 16000, ""),
        (4, "e", FAN, 0, "no audio"),
        (5, "f", FAN, 0, "not readable audio"),
        (7, "", FAN, 0, "no video id"),
        (8, "h", FAN, 0, "too short"),
    ]


def test_chosen_rows_are_read_again(tmp_path: Path) -> None:
    shard = mixed_shard(tmp_path, 2)
    again = chosen_samples(shard, [2, 1], 0.5)
    assert sorted(again) == [1, 2]
    np.testing.assert_array_equal(again[2], NOISE)
    with pytest.raises(DataError, match="has changed since its clips were scored"):
        chosen_samples(shard, [5], 0.5)


def test_audio_of_unlisted_row_groups_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = external._audio_of_group

    def spy(file: Any, group: int, wanted: Any) -> Any:
        if wanted:
            read.append(group)
        return original(file, group, wanted)

    monkeypatch.setattr(external, "_audio_of_group", spy)
    pq.write_table(
        rows(*[(f"v{i}", [FAN if i == 7 else SPEECH], encode(NOISE)) for i in range(12)]),
        tmp_path / "m.parquet",
        row_group_size=3,
    )
    assert [row for row, *_ in listed(find_shards(parquet(tmp_path))[0])] == [7]
    assert read == [2]


def test_a_damaged_row_group_costs_only_its_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    clips = [(f"v{i}", [FAN], encode(np.roll(NOISE, i))) for i in range(6)]
    pq.write_table(rows(*clips), path, row_group_size=2, compression="none")
    column = pq.read_metadata(path).row_group(1).column(1)
    assert column.path_in_schema == "audio.bytes"
    data = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    data[begin : begin + 40] = b"\xff" * 40
    path.write_bytes(data)
    found = listed(find_shards(parquet(tmp_path))[0])
    assert [(row, problem) for row, *_, problem in found] == [
        (0, ""),
        (1, ""),
        (2, "unreadable row group 1"),
        (3, "unreadable row group 1"),
        (4, ""),
        (5, ""),
    ]


IDS = ("-_1abcDEF_2", "Yabcdefghij", "abcdefghijk", "0123456_789", "zzzzzzzzzzz")


def audio_folder(root: Path) -> ExternalSource:
    (root / "audio" / "sub").mkdir(parents=True)
    names = ("-_1abcDEF_2_30.000_40.000.wav", "YYabcdefghij.flac", "sub/Yabcdefghijk_30.ogg", "0123456_789.mp3")
    for name in names:
        kind = Path(name).suffix[1:].upper()
        (root / "audio" / name).write_bytes(encode(NOISE, kind=kind))
    (root / "audio" / "no_segment.wav").write_bytes(encode(NOISE))
    (root / "audio" / "notes.txt").write_text("no audio")
    lines = [f'{name}, 30.000, 40.000, "{SPEECH},{FAN}"\n' for name in IDS]
    (root / "segments.csv").write_text("# a comment, with a comma\n\n" + "".join(lines))
    return ExternalSource(audio=str(root / "audio"), segments=str(root / "segments.csv"))


def test_files_find_their_segment_by_name(tmp_path: Path) -> None:
    (shard,) = find_shards(config(audio_folder(tmp_path)))
    assert (shard.name, shard.rows) == ("audio-00000", 4)
    assert listed(shard) == [
        (0, "-_1abcDEF_2", FAN, 16000, ""),
        (1, "0123456_789", FAN, 16000, ""),
        (2, "Yabcdefghij", FAN, 16000, ""),
        (3, "abcdefghijk", FAN, 16000, ""),
    ]
    np.testing.assert_array_equal(chosen_samples(shard, [0], 0.5)[0], NOISE)
    (tmp_path / "audio" / "YYabcdefghij.flac").unlink()
    assert listed(shard)[2][4] == "cannot read"


def test_many_files_are_several_shards(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(300):
        (tmp_path / "audio" / f"id{number:09d}.wav").write_bytes(b"")
    lines = "".join(f'id{number:09d}, 0, 10, "{FAN}"\n' for number in range(300))
    (tmp_path / "segments.csv").write_text(lines)
    source = ExternalSource(audio=str(tmp_path / "audio"), segments=str(tmp_path / "segments.csv"))
    shards = find_shards(config(source))
    assert [(shard.name, shard.rows) for shard in shards] == [("audio-00000", 256), ("audio-00001", 44)]
    assert listed(shards[1])[0] == (0, "id000000256", FAN, 0, "no audio")
    (tmp_path / "segments.csv").write_text(lines.replace("id", "no"))
    assert "none of its 300 recordings is named by a video id of" in fault(config(source))


def test_the_released_segments_are_understood(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "Y--PJHxphWEs_30.000_40.000.wav").write_bytes(encode(NOISE))
    segments = str(shared / "data" / "external" / "balanced_train_segments.csv")
    (shard,) = find_shards(config(ExternalSource(audio=str(tmp_path / "audio"), segments=segments)))
    assert shard.files is not None
    assert shard.files.to_pylist()[0]["labels"] == ["/m/09x0r", "/t/dd00088"]


@settings(max_examples=60, deadline=None)
@given(st.from_regex(r"[A-Za-z0-9_-]{11}", fullmatch=True), st.integers(0, 600))
def test_every_spelling_leads_to_its_id(video_id: str, start: int) -> None:
    for stem in (video_id, f"Y{video_id}", f"{video_id}_{start}", f"Y{video_id}_{start}.000_{start + 10}.000"):
        assert video_id in _spellings(stem)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("kind", "tolerance"), [("WAV", 2), ("FLAC", 2), ("OGG", 2500), ("MP3", 2500)])
def test_containers_rates_and_channels(kind: str, tolerance: float, rate: int, channels: int) -> None:
    """A tone in the first channel comes out at its level and length, whatever it was packed in."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    wave = tone if channels == 1 else np.stack([tone, np.zeros(rate)], axis=1)
    clip = decode(encode(wave, rate, kind), "a", 0.5)
    assert (clip.sample_rate, clip.channels, len(clip.samples)) == (rate, channels, 16000)
    expected = 0.3 * 32768 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(clip.samples - expected)[500:-1200].max() < tolerance + (30 if rate != 16000 else 0)


def untagged(mp3: bytes) -> bytes:
    """Without the first frame, whose tag counts the others: as cut out of a stream."""
    head = mp3[mp3.index(b"\xff\xfb") : mp3.index(b"\xff\xfb") + 2]
    return mp3[mp3.index(head, 40) :]


def test_an_mp3_that_does_not_know_its_length_is_not_truncated() -> None:
    quiet_then_loud = np.random.default_rng(0).normal(0, 0.1, 3 * 44100) * np.linspace(0, 1, 3 * 44100) ** 3
    mp3 = encode(quiet_then_loud, 44100, "MP3", bitrate_mode="VARIABLE")
    assert len(decode(mp3, "a", 0.5).samples) == 48000
    stream = untagged(mp3)
    assert soundfile.info(io.BytesIO(stream)).frames > 1.5 * 3 * 44100  # the library's guess
    assert len(decode(stream, "a", 0.5).samples) == pytest.approx(48000, abs=1000)
    with pytest.raises(BadClip, match="too long"):
        decode(stream, "a", 0.5, max_seconds=2)
    with pytest.raises(BadClip, match="truncated"):
        decode(mp3[: len(mp3) // 2], "a", 0.5)
    picture = b"ID3\x04\x00\x00" + bytes([0, 0, 100, 0]) + bytes(100 << 7)  # ID3v2: 7 bits a byte
    assert len(decode(picture + mp3, "a", 0.5).samples) == 48000


def test_a_shortened_ogg_is_a_shorter_clip_or_a_reason() -> None:
    ogg = encode(np.tile(NOISE, 5), kind="OGG")
    assert 16000 < len(decode(ogg[: len(ogg) // 2], "a", 0.5).samples) < 80000
    with pytest.raises(BadClip, match="not readable audio"):
        decode(ogg[:60], "a", 0.5)
