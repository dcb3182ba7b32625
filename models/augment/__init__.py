"""Augmentation on waveforms, drawn and applied separately."""
