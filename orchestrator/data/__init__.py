"""From files on disk to a clip table, waveforms and labels."""
