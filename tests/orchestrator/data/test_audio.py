"""Decoding: exact where it can be, and a reason for everything that cannot be used."""

import contextlib
import copy
import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from orchestrator.data.audio import SAMPLE_RATE, BadClip, decode

NOISE = np.random.default_rng(0).integers(-20000, 20000, 16000).astype(np.int16)
WAV_HEADER = 44


def encode(samples, rate=SAMPLE_RATE, kind="WAV", subtype="PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def reason(data: bytes, **limits) -> str:
    with pytest.raises(BadClip) as error:
        decode(data, "a.wav", **({"min_seconds": 0.1} | limits))
    assert str(error.value) == f"a.wav: {error.value.reason}"
    return error.value.reason


def with_data_size(wav: bytes, size: int) -> bytes:
    return wav[: WAV_HEADER - 4] + struct.pack("<I", size) + wav[WAV_HEADER:]


@settings(deadline=None, max_examples=30)
@given(samples=arrays(np.int16, st.integers(2, 300)), kind=st.sampled_from(["WAV", "FLAC"]))
def test_sixteen_bits_come_out_bit_for_bit(samples, kind):
    samples[:2] = (-32768, 32767)  # the ends of the range; also never silent
    clip = decode(encode(samples, kind=kind), "a", min_seconds=0)
    assert clip.samples.dtype == np.int16
    np.testing.assert_array_equal(clip.samples, samples)
    assert clip[1:] == (16000, 1)


def test_block_boundaries_do_not_show():
    samples = np.resize(NOISE, 65536 * 2)
    np.testing.assert_array_equal(decode(encode(samples, kind="FLAC"), "a", 0).samples, samples)


def test_float_is_scaled_rounded_and_clipped():
    values = np.array([0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 1.6 / 32768], np.float32)
    samples = decode(encode(values, subtype="FLOAT"), "a", 0).samples
    assert samples.tolist() == [0, 16384, -16384, 32767, -32768, 32767, -32768, 2]


def test_24_bits_are_rounded():
    values = np.array([256 * 1000, 256 * 1000 + 100, 256 * 1000 + 200, -256 * 7], np.int32) << 8
    assert decode(encode(values, subtype="PCM_24"), "a", 0).samples.tolist() == [1000, 1000, 1001, -7]


def test_the_first_of_two_channels_is_taken():
    clip = decode(encode(np.stack([NOISE, -NOISE], axis=1), kind="FLAC"), "a", 0.1)
    np.testing.assert_array_equal(clip.samples, NOISE)
    assert clip.channels == 2


@pytest.mark.parametrize("rate", [44100, 48000, 8000, 22050])
def test_resampling_keeps_length_frequency_and_level(rate):
    sine = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    clip = decode(encode(sine, rate), "a", 0.1)
    assert (clip.sample_rate, len(clip.samples)) == (rate, 16000)
    spectrum = np.abs(np.fft.rfft(clip.samples / 32768)) / 8000  # 1 s: bin k is k Hz, a sine's amplitude at its bin
    assert spectrum.argmax() == 1000
    assert spectrum[1000] == pytest.approx(0.5, rel=0.01)
    assert np.delete(spectrum, range(900, 1101)).max() < 0.01


def test_resampling_removes_what_16_khz_cannot_hold():
    above = 0.5 * np.sin(2 * np.pi * 12000 * np.arange(44100) / 44100)
    assert np.abs(decode(encode(above, 44100), "a", 0.1).samples[200:-200]).max() < 0.01 * 16384


def test_faults_have_reasons():
    wav = encode(NOISE)
    assert reason(b"") == "empty file"
    assert reason(b"these are words, no sound" * 9).startswith("not readable audio: Format not recognised")
    assert reason(wav[:20]).startswith("not readable audio")
    assert reason(wav[: WAV_HEADER + 1234]) == "truncated: header promises 32000 bytes, file has 1234"
    assert reason(encode(np.full(16000, 77, np.int16))) == "silent: all samples are equal"
    assert reason(encode(NOISE[:800])) == "too short: 0.05 s, at least 0.1 s needed"
    assert reason(encode(NOISE[:0]), min_seconds=0) == "too short: 0 s, at least 0 s needed"
    assert reason(wav, max_seconds=0.5) == "too long: 1 s, at most 0.5 s are allowed"
    assert reason(encode(NOISE, 44099)).startswith("sample rate 44099 Hz has no short ratio to 16000 Hz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value):
    wave = NOISE / 32768
    wave[5000] = value
    assert reason(encode(wave, subtype="FLOAT")) == "NaN or infinite samples"


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_truncated_flac(share):
    flac = encode(NOISE, kind="FLAC")
    assert reason(flac[: int(share * len(flac))]).startswith(("truncated", "not readable audio"))


def flac_promising(frames: int) -> bytes:
    """The total is the last 36 of the 64 bits that begin at byte 18."""
    flac = encode(NOISE, kind="FLAC")
    bits = int.from_bytes(flac[18:26], "big") >> 36 << 36 | frames
    return flac[:18] + bits.to_bytes(8, "big") + flac[26:]


def test_giant_headers_allocate_nothing():
    giants = [with_data_size(encode(NOISE), 0xFFFFFFF0), flac_promising(2**36 - 1), flac_promising(500 * 16000)]
    tracemalloc.start()
    reasons = [reason(data) for data in giants]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons[0] == "truncated: header promises 4294967280 bytes, file has 32000"
    assert reasons[1] == "too long: 4.295e+06 s, at most 600 s are allowed"
    assert reasons[2].startswith("truncated")
    assert peak < 2_000_000
    assert reason(flac_promising(0)).startswith("its header does not say how long it is")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_streamed_wav_is_read_to_its_end(size):
    np.testing.assert_array_equal(decode(with_data_size(encode(NOISE), size), "a", 0.1).samples, NOISE)


def test_other_chunks_and_long_wav_are_understood():
    wav, rf64 = encode(NOISE), encode(NOISE, kind="RF64")
    odd_chunk = b"note" + struct.pack("<I", 3) + b"abc\0"
    extended = wav[:36] + odd_chunk + wav[36:]
    np.testing.assert_array_equal(decode(extended, "a", 0.1).samples, NOISE)
    assert reason(extended[:-100]) == "truncated: header promises 32000 bytes, file has 31900"
    np.testing.assert_array_equal(decode(rf64, "a", 0.1).samples, NOISE)
    assert reason(rf64[:-100]) == "truncated: header promises 32000 bytes, file has 31900"


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["WAV", "FLAC"]),
    position=st.integers(0, 2000),
    junk=st.binary(min_size=1, max_size=8),
    cut=st.integers(0, 3000),
)
def test_damage_is_a_reason_or_a_clip_and_nothing_else(kind, position, junk, cut):
    data = bytearray(encode(NOISE[:2000], kind=kind))
    data[position : position + len(junk)] = junk
    with contextlib.suppress(BadClip):
        clip = decode(bytes(data[: len(data) - cut]), "a", 0.01)
        assert clip.samples.dtype == np.int16
        assert len(clip.samples) >= 160


def test_a_bad_clip_survives_the_way_between_processes():
    twin = copy.copy(BadClip("empty file", "a.wav"))  # rebuilt from its args, as a remote worker's error is
    assert (twin.reason, twin.name, str(twin)) == ("empty file", "a.wav", "a.wav: empty file")
