"""From the bytes of a recording to int16 samples at 16 kHz, or to the reason why that is not possible."""

import io
import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from orchestrator.errors import DataError

SAMPLE_RATE = 16000
FULL_SCALE = 32768.0
BLOCK_FRAMES = 65536
EXACT_IN_INT16 = ("PCM_16", "PCM_S8", "PCM_U8")
STREAMED_SIZES = (0, 0xFFFFFFFF)  # written by programs that cannot seek back to the header
# Product of the reduced rates, the size of the resampling filter: 441 x 160 at 44.1 kHz; 44,099 Hz would need 5 GB.
MAX_FILTER_SIZE = 1_000_000
RESAMPLED_AT_ONCE = 1 << 20  # samples; the clips of all data sets are shorter
FILTER_ZEROS = 16  # zero crossings of the resampling filter on either side, at least: it has 6
UNKNOWN_FRAMES = 1 << 60
MP3_TAG_REACH = 4096  # bytes after the ID3 tag that surely hold the first frame's beginning


class BadClip(DataError):  # noqa: N818
    """A recording that cannot be used; `reason` says why in a few words."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(reason, name)  # both as args: workers of other processes pickle errors by them
        self.reason = reason
        self.name = name

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" if self.name else self.reason


class DecodedClip(NamedTuple):
    """Samples int16 (n,) at 16 kHz, and the file's own rate (Hz) and number of channels."""

    samples: NDArray[np.int16]
    sample_rate: int
    channels: int


def decode(data: bytes, name: str, min_seconds: float, max_seconds: float = 600.0) -> DecodedClip:
    """Decode the bytes of a WAV, FLAC, OGG or MP3 file: its first channel, at 16 kHz, as int16.

    16-bit files at 16 kHz come out bit for bit; others are converted with rounding and clipping. The first channel of a
    two-channel clip (DCASE 2026) is the microphone near the machine. Raises BadClip (with `name`) for whatever could
    not be trained on: empty, truncated, unreadable, not finite, constant, shorter or longer (seconds) than allowed.
    """
    try:
        clip = _decode(_mend_streamed_header(data), max_seconds)
        _check_samples(clip.samples, min_seconds)
    except BadClip as error:
        raise BadClip(error.reason, name) from None
    return clip


def _decode(data: bytes, max_seconds: float) -> DecodedClip:
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            promised = None if _is_estimate(file, data) else file.frames
            _check_header(file, promised, max_seconds)
            exact = file.subtype in EXACT_IN_INT16
            first_channel = _read_first_channel(file, "int16" if exact else "float64", promised, max_seconds)
            rate, channels = file.samplerate, file.channels
    except soundfile.SoundFileError as error:
        raise BadClip(f"not readable audio: {_message(error)}") from None
    if not np.isfinite(first_channel).all():
        raise BadClip("NaN or infinite samples")
    if rate != SAMPLE_RATE:
        first_channel = _resample(first_channel / FULL_SCALE if exact else first_channel, rate)
    return DecodedClip(_to_int16(first_channel), rate, channels)


def _message(error: Exception) -> str:
    """The decoder's words without the address of our buffer, which would differ from run to run."""
    return getattr(error, "error_string", str(error)).strip().rstrip(".")


def _is_estimate(file: soundfile.SoundFile, data: bytes) -> bool:
    """Whether the library guessed the length: an MP3 without a tag that counts its frames may seem 10 times as long."""
    if file.format != "MP3":
        return False
    size = data[6:10] if data[:3] == b"ID3" else bytes(4)  # a picture may lie before the first frame
    begin = sum(byte << 7 * (3 - place) for place, byte in enumerate(size))
    return not any(tag in data[begin : begin + MP3_TAG_REACH] for tag in (b"Xing", b"Info", b"VBRI"))


def _check_header(file: soundfile.SoundFile, promised: int | None, max_seconds: float) -> None:
    """Refuse by the header's figures alone, before anything is allocated from them."""
    if promised is not None and promised > UNKNOWN_FRAMES:
        raise BadClip("its header does not say how long it is: decode and encode it again")
    _check_length((promised or 0) / file.samplerate, max_seconds)
    common = math.gcd(file.samplerate, SAMPLE_RATE)
    if file.samplerate * SAMPLE_RATE // common**2 > MAX_FILTER_SIZE:
        raise BadClip(f"sample rate {file.samplerate} Hz has no short ratio to {SAMPLE_RATE} Hz: resample it elsewhere")


def _check_length(seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise BadClip(f"too long: {seconds:.4g} s, at most {max_seconds:g} s are allowed")


def _read_first_channel(
    file: soundfile.SoundFile, dtype: str, promised: int | None, max_seconds: float
) -> NDArray[Any]:
    """Decode in blocks, so that memory follows what the file holds and not what its header promises."""
    blocks: list[NDArray[Any]] = []
    read = 0
    try:
        while True:
            block = file.read(BLOCK_FRAMES, dtype=dtype, always_2d=True)
            blocks.append(block[:, 0].copy())
            read += len(block)
            _check_length(read / file.samplerate, max_seconds)
            if len(block) < BLOCK_FRAMES:
                break
    except soundfile.SoundFileError as error:
        raise BadClip(
            f"truncated or damaged: the decoder stopped before sample {file.frames} ({_message(error)})"
        ) from None
    if promised is not None and read < promised:
        raise BadClip(f"truncated: header promises {promised} samples, file has {read}")
    return np.concatenate(blocks)


def _resample(samples: NDArray[Any], rate: int) -> NDArray[Any]:
    """Band-limited resampling of float samples (n,) from `rate` Hz to 16 kHz.

    A long recording goes in blocks with overlap, to the same samples: at once it takes 120 bytes a sample.
    """
    step, new = rate // math.gcd(rate, SAMPLE_RATE), SAMPLE_RATE // math.gcd(rate, SAMPLE_RATE)
    edge = step * math.ceil(FILTER_ZEROS * max(1.0, rate / SAMPLE_RATE) / step)  # more than the filter reaches
    block = step * math.ceil(max(RESAMPLED_AT_ONCE, 4 * edge) / step)
    if len(samples) <= block:
        return _resample_at_once(samples, rate)
    parts = []
    for start in range(0, len(samples), block):
        before, stop = min(start, edge), min(start + block, len(samples))
        part = _resample_at_once(samples[start - before : stop + edge], rate)
        begin = before // step * new
        parts.append(part[begin : begin + math.ceil((stop - start) * new / step)])
    return np.concatenate(parts)


def _resample_at_once(samples: NDArray[Any], rate: int) -> NDArray[Any]:
    import torch
    from torchaudio.functional import resample

    wave = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float64))
    resampled: NDArray[Any] = resample(wave, rate, SAMPLE_RATE).numpy()
    return resampled


def _to_int16(samples: NDArray[Any]) -> NDArray[np.int16]:
    if samples.dtype == np.int16:
        return samples
    return np.clip(np.rint(samples * FULL_SCALE), -32768, 32767).astype(np.int16)


def _check_samples(samples: NDArray[np.int16], min_seconds: float) -> None:
    seconds = len(samples) / SAMPLE_RATE
    if len(samples) == 0 or seconds < min_seconds:
        raise BadClip(f"too short: {seconds:.3g} s, at least {min_seconds:g} s needed")
    if samples.min() == samples.max():
        raise BadClip("silent: all samples are equal")


def _mend_streamed_header(data: bytes) -> bytes:
    """Check a WAV's promised size, which the decoder library shortens to what is there without a word.

    A streamed file's size field is 0 or all ones. The library reads nothing where it is 0, so that becomes all ones.
    Files of other formats pass unchanged.
    """
    if not data:
        raise BadClip("empty file")
    start, promised = _wav_data(data)
    present = len(data) - start
    if promised in STREAMED_SIZES:
        return data[: start - 4] + b"\xff\xff\xff\xff" + data[start:] if promised == 0 and present else data
    if promised > present:
        raise BadClip(f"truncated: header promises {promised} bytes, file has {present}")
    return data


def _wav_data(data: bytes) -> tuple[int, int]:
    """Where a WAV's samples begin (byte) and how many bytes its header promises; (0, 0xFFFFFFFF) for other files."""
    long_size = 0xFFFFFFFF
    for kind, begin, size in _riff_chunks(data):
        if kind == b"ds64" and begin + 16 <= len(data):  # RF64 keeps its 64-bit data size here
            long_size = struct.unpack_from("<Q", data, begin + 8)[0]
        if kind == b"data":
            return begin, long_size if size == 0xFFFFFFFF else size
    return 0, 0xFFFFFFFF


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, size in bytes) of each chunk of a RIFF, RF64 or big-endian RIFX file."""
    if data[:4] not in (b"RIFF", b"RF64", b"RIFX") or data[8:12] != b"WAVE":
        return
    order = ">" if data[:4] == b"RIFX" else "<"
    position = 12
    while position + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}4sI", data, position)
        yield kind, position + 8, size
        position += 8 + size + size % 2  # chunks are padded to even sizes
