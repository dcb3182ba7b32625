"""From uploaded bytes to a waveform, with everything refused that is no recording or would fill the memory."""

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

from orchestrator.data.audio import BadClip, decode

MOST_FRAMES = 600 * 48_000  # ten minutes at 48 kHz; decoding takes 30 bytes a frame
MOST_CHANNELS = 64
NO_AUDIO = "not a WAV, FLAC, OGG or MP3 file"
ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "7z",
}


def hear(data: bytes, *, min_seconds: float, max_seconds: float) -> NDArray[np.int16]:
    """Samples (n,) int16 at 16 kHz. BadClip says why there are none.

    A few kilobytes of FLAC may hold minutes at a high rate: the rate is read first, and bounds the seconds.
    """
    if not data:
        raise BadClip("empty file")
    if not looks_like_audio(data):
        archive = next((name for magic, name in ARCHIVES.items() if data.startswith(magic)), "")
        raise BadClip(f"{archive}, {NO_AUDIO}: send the recordings themselves" if archive else NO_AUDIO)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels = file.samplerate, file.channels
    except soundfile.SoundFileError:
        rate, channels = 0, 0  # decode says what is wrong
    if channels > MOST_CHANNELS:
        raise BadClip(f"{channels} channels, at most {MOST_CHANNELS} are allowed")
    seconds = min(max_seconds, MOST_FRAMES / rate) if rate else max_seconds
    return decode(data, "", min_seconds, seconds).samples


def looks_like_audio(data: bytes) -> bool:
    """Whether the first bytes are those of a kind that `decode` promises; the library would try 20 others."""
    if data[:4] in (b"RIFF", b"RF64", b"RIFX"):
        return data[8:12] == b"WAVE"
    mpeg = len(data) > 2 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0
    return data[:4] in (b"fLaC", b"OggS") or data[:3] == b"ID3" or mpeg
