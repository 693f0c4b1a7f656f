"""Detectors of R peaks, asked in place of a trained head: what an encoder's peaks have to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchecg.models.base import Tokens
from xecg.errors import SpecError
from xecg.signal import Recording

__all__ = ["Detections", "Metronome", "SleepECG"]


class _Detector:
    """A detector has peaks and no features."""

    id = ""
    spec_hash = ""
    trained: bool | None = None
    pretrained_on: tuple[str, ...] | None = ()

    def features(self, recordings: Sequence[Recording]) -> list[Tokens]:
        """Refused: raises SpecError."""
        raise SpecError(f"{self.id} finds peaks and has no features; ask it a peaks task")


class Detections(_Detector):
    """The causal QRS detector of xecg.signal, on the lead that it chooses, with its default settings."""

    id = "qrs"
    fingerprint = "xecg-qrs-1"
    about = "QRS detector of xecg.signal (after Pan and Tompkins 1985), nothing fitted"

    def peaks_s(self, recording: Recording) -> np.ndarray:
        """Peaks in seconds from the recording's start, ascending."""
        from xecg.signal import qrs

        return np.asarray(qrs.detect(recording.signal, recording.rate), float) / recording.rate


class Metronome(_Detector):
    """A peak every 0.8 s whatever the signal: what chance alone gives at each tolerance."""

    id = "beat-75"
    fingerprint = "metronome-75"
    about = "75 beats a minute whatever the signal"

    def peaks_s(self, recording: Recording) -> np.ndarray:
        """0.4 s, 1.2 s, … to the recording's end."""
        return np.arange(0.4, recording.duration_s, 0.8)


class SleepECG(_Detector):
    """`sleepecg.detect_heartbeats` (after Pan and Tompkins 1985) on the first lead."""

    id = "sleepecg"
    about = "heartbeat detector of the sleepecg package, first lead, nothing fitted"

    def __init__(self) -> None:
        try:
            import sleepecg
        except ImportError:
            raise SpecError("sleepecg is not installed; `pip install sleepecg` to score its detector") from None
        self.fingerprint = f"sleepecg-{sleepecg.__version__}"

    def peaks_s(self, recording: Recording) -> np.ndarray:
        """Peaks in seconds from the recording's start, ascending."""
        import sleepecg

        signal = recording.signal[0].astype(np.float64)
        return np.asarray(sleepecg.detect_heartbeats(signal, recording.rate), float) / recording.rate
