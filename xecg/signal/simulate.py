"""Reproducible synthetic ECGs with true beat times. For tests, demonstrations and plumbing; never a stand-in for real
data.

A beat is a sum of Gaussian waves of the heart's dipole (x left, y down, z back): the phase model of McSharry et al.,
IEEE Trans. Biomed. Eng. 50:289 (2003), in the three-dimensional form of Sameni et al., EURASIP J. Adv. Signal
Process. 2007:043407, here laid out in time instead of phase. Leads I, II, V1…V6 come from the dipole by the matrix of
Dower (Edenbrandt and Pahlm, J. Electrocardiol. 21:361, 1988); noise is made per electrode and combined as the leads
are, so that I + III = II holds with noise as well. Wave amplitudes, widths and directions are our own, chosen to look
like a normal adult ECG.
"""

from __future__ import annotations

import csv
import io as textio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xecg.errors import SpecError
from xecg.signal.leads import STANDARD_LEADS, canonical_leads
from xecg.signal.recording import Annotations, LogEntry, Recording

__all__ = ["RHYTHMS", "add_wave", "archive", "ecg", "noise_mv", "project"]

# Heart rate of each rhythm when none is asked for: (mean, sd, low, high) in beats a minute.
_RATE_BPM = {"sinus": (72, 8, 58, 98), "brady": (47, 4, 36, 55), "tachy": (122, 9, 105, 150), "af": (96, 14, 65, 140)}
RHYTHMS = tuple(_RATE_BPM)

_DOWER = {
    "I": (0.632, -0.235, 0.059),
    "II": (0.235, 1.066, -0.132),
    "V1": (-0.515, 0.157, -0.917),
    "V2": (0.044, 0.164, -1.387),
    "V3": (0.882, 0.098, -1.277),
    "V4": (1.213, 0.127, -0.601),
    "V5": (1.125, 0.127, -0.086),
    "V6": (0.831, 0.076, 0.230),
}
# Waves of a beat: centre (s after the R peak), width (s, standard deviation), dipole (x, y, z) in mV. P and T are
# placed by PR and QT.
_QRS = (
    (-0.024, 0.0085, (-0.13, -0.09, -0.26)),
    (0.0, 0.0115, (0.98, 0.80, 0.32)),
    (0.027, 0.0110, (-0.17, -0.14, 0.46)),
)
_P = (0.024, (0.055, 0.105, -0.025))
_T = ((0.050, 0.034), (0.27, 0.23, -0.17))  # widths before and after the peak
_PVC = ((-0.008, 0.019), (0.038, 0.026))  # centres and widths of the two wide waves
_NOISE_MV = {"wander": 0.05, "mains": 0.008, "muscle": 0.012, "electrode": 0.0}
_ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")


@dataclass(frozen=True)
class _Subject:
    """What stays the same in all records of one synthetic patient."""

    age: float
    sex: str
    axis_deg: float
    scale: float
    qtc_s: float
    pr_s: float
    jitter: tuple[float, ...]


@dataclass(frozen=True)
class _Beat:
    time_s: float
    symbol: str
    rr_s: float


def ecg(
    *,
    seed: int,
    rate_hz: float = 500.0,
    duration_s: float = 10.0,
    leads: Sequence[str] = STANDARD_LEADS,
    heart_rate_bpm: float | None = None,
    rhythm: str = "sinus",
    ectopy: float | Mapping[str, float] = 0.0,
    axis_deg: float | None = None,
    noise: float | Mapping[str, float] = 1.0,
    mains_hz: float = 50.0,
    age: float | None = None,
    sex: str | None = None,
) -> Recording:
    """A synthetic recording: the same arguments give the same samples (numpy's PCG64, one stream for each part).

    rhythm: one of `RHYTHMS`. heart_rate_bpm, axis_deg, age (years), sex ("F"/"M"): drawn when None; rate and QT
    depend a little on age and sex. ectopy: chance that a beat is premature, {"V": ventricular, "A": atrial}, or one
    number for "V"; no "A" in "af". noise: factor on the default noise, or mV (RMS) of "wander", "mains", "muscle",
    "electrode" for each electrode; 0 = clean. leads: any of the twelve.

    The result's `source` starts with "synthetic:", `annotations` has every beat (N, V, A) at its R peak, `meta` has
    synthetic=True, age, sex, rhythm, heart_rate_bpm, axis_deg, qtc_ms, n_pvc, n_pac. Raises SpecError.
    """
    person, beats, shape, disturbance = _generators(seed, 4)
    subject = _subject(person, age, sex, axis_deg)
    return _render(
        subject, (beats, shape, disturbance), f"synthetic:{rhythm}-{seed}",
        rate_hz=rate_hz, duration_s=duration_s, leads=leads, heart_rate_bpm=heart_rate_bpm, rhythm=rhythm, ectopy=ectopy,
        noise=noise, mains_hz=mains_hz,
    )  # fmt: skip


def archive(
    folder: str | Path,
    *,
    patients: int,
    seed: int,
    rate_hz: float = 500.0,
    duration_s: float = 10.0,
    leads: Sequence[str] = STANDARD_LEADS,
    noise: float | Mapping[str, float] = 1.0,
) -> Path:
    """Write a WFDB archive of synthetic patients, one to three records each, and return the path of its `labels.csv`.

    Records (`synth00000a`, …) have annotations in `.atr` files; labels.csv has record, patient, age, sex, rhythm,
    n_pvc. The same arguments give the same files.
    """
    import wfdb

    from xecg.io import write_wfdb

    if patients < 1:
        raise SpecError(f"patients is {patients!r}; needed at least 1")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[list[object]] = []
    for p, patient_seed in enumerate(np.random.SeedSequence(seed).spawn(patients)):
        person, *record_seeds = patient_seed.spawn(4)
        rng = np.random.Generator(np.random.PCG64(person))
        subject = _subject(rng, None, None, None)
        rhythm = str(rng.choice(RHYTHMS, p=(0.55, 0.15, 0.15, 0.15)))
        ectopy = float(rng.uniform(0.05, 0.25)) if rng.random() < 0.3 else 0.0
        for k in range(int(rng.integers(1, 4))):
            name = f"synth{p:05d}{'abc'[k]}"
            made = _render(
                subject, _generators(record_seeds[k], 3), f"synthetic:{name}",
                rate_hz=rate_hz, duration_s=duration_s, leads=leads, heart_rate_bpm=None, rhythm=rhythm, ectopy=ectopy,
                noise=noise, mains_hz=50.0,
            )  # fmt: skip
            write_wfdb(made, folder, name, comments=("synthetic",))
            marks = made.annotations
            if marks is not None and len(marks):
                wfdb.wrann(name, "atr", marks.sample, list(marks.symbol), write_dir=str(folder))
            rows.append([name, f"patient{p:05d}", f"{subject.age:g}", subject.sex, rhythm, made.meta["n_pvc"]])
    return _write_labels(folder / "labels.csv", rows)


def _write_labels(path: Path, rows: list[list[object]]) -> Path:
    from xecg.io.atomic import write_text

    text = textio.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["record", "patient", "age", "sex", "rhythm", "n_pvc"])
    table.writerows(rows)
    write_text(path, text.getvalue())
    return path


def _generators(seed: int | np.random.SeedSequence, n: int) -> tuple[np.random.Generator, ...]:
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return tuple(np.random.Generator(np.random.PCG64(s)) for s in root.spawn(n))


def _subject(rng: np.random.Generator, age: float | None, sex: str | None, axis_deg: float | None) -> _Subject:
    drawn_age, drawn_sex = round(float(np.clip(rng.normal(56, 17), 18, 90))), str(rng.choice(["F", "M"]))
    age = drawn_age if age is None else age
    sex = drawn_sex if sex is None else sex
    if sex not in ("F", "M"):
        raise SpecError(f"sex is {sex!r}; needed 'F' or 'M'")
    if not 0 <= age <= 120:
        raise SpecError(f"age is {age!r}; needed years in 0..120")
    drawn_axis = float(np.clip(55 - 0.45 * (age - 50) + rng.normal(0, 15), -60, 100))
    woman = sex == "F"
    return _Subject(
        age=float(age),
        sex=sex,
        axis_deg=drawn_axis if axis_deg is None else float(axis_deg),
        scale=float(np.clip(rng.normal(0.92 if woman else 1.02, 0.14), 0.6, 1.5)),
        # women's and older people's corrected QT is a little longer (about 10 ms, and 0.3 ms a year)
        qtc_s=float(rng.normal(0.402 + 0.010 * woman + 0.0003 * (age - 50), 0.010)),
        pr_s=float(np.clip(rng.normal(0.155 + 0.0003 * (age - 50), 0.012), 0.12, 0.2)),
        jitter=tuple(rng.normal(0, 1, 16).tolist()),
    )


def _render(
    subject: _Subject,
    generators: tuple[np.random.Generator, ...],
    source: str,
    *,
    rate_hz: float,
    duration_s: float,
    leads: Sequence[str],
    heart_rate_bpm: float | None,
    rhythm: str,
    ectopy: float | Mapping[str, float],
    noise: float | Mapping[str, float],
    mains_hz: float,
) -> Recording:
    beat_rng, shape_rng, noise_rng = generators
    names = canonical_leads(leads)
    if rhythm not in RHYTHMS:
        raise SpecError(f"rhythm is {rhythm!r}; needed one of {', '.join(RHYTHMS)}")
    if not names or not set(names) <= set(STANDARD_LEADS):
        raise SpecError(f"leads are {tuple(leads)!r}; needed some of {', '.join(STANDARD_LEADS)}")
    if not (25 <= rate_hz <= 20_000 and 0 < duration_s <= 7 * 86_400):
        raise SpecError(f"rate_hz, duration_s are {rate_hz!r}, {duration_s!r}; needed 25..20,000 Hz and up to 7 days")
    n = max(1, round(rate_hz * duration_s))
    heart = _heart_rate(beat_rng, subject, rhythm, heart_rate_bpm)
    beats = _beats(beat_rng, heart, rhythm, _ectopy(ectopy), n / rate_hz)
    dipole = _dipole(shape_rng, subject, beats, rate_hz, n, fibrillating=rhythm == "af")
    clean = project(dipole)
    signal = clean + noise_mv(noise_rng, _amplitudes(noise), rate_hz, n, mains_hz)
    rows = np.stack([signal[STANDARD_LEADS.index(name)] for name in names]).astype(np.float32)
    inside = [(round(b.time_s * rate_hz), b.symbol) for b in beats]
    inside = [(s, symbol) for s, symbol in inside if 0 <= s < n]
    symbols = tuple(symbol for _, symbol in inside)
    marks = Annotations(np.array([s for s, _ in inside], dtype=np.int64), symbols, ("",) * len(symbols))
    meta = {
        "synthetic": True, "calibrated": True, "age": subject.age, "sex": subject.sex, "rhythm": rhythm,
        "heart_rate_bpm": heart, "axis_deg": subject.axis_deg, "qtc_ms": 1000 * subject.qtc_s,
        "n_pvc": symbols.count("V"), "n_pac": symbols.count("A"),
    }  # fmt: skip
    log = (LogEntry("noted", "source", "synthetic signal from a simulator, not a recording of a person"),)
    mask = np.ones(rows.shape, dtype=bool)
    return Recording(rows, float(rate_hz), tuple(names), mask, source, 0.0, marks, log, None, meta)


def _heart_rate(rng: np.random.Generator, subject: _Subject, rhythm: str, asked: float | None) -> float:
    mean, sd, low, high = _RATE_BPM[rhythm]
    drawn = mean + sd * rng.standard_normal() + 3 * (subject.sex == "F") - 0.08 * (subject.age - 50)
    value = float(np.clip(drawn, low, high)) if asked is None else float(asked)
    if not 20 <= value <= 300:
        raise SpecError(f"heart_rate_bpm is {asked!r}; needed 20..300")
    return value


def _ectopy(ectopy: float | Mapping[str, float]) -> dict[str, float]:
    chances = dict(ectopy) if isinstance(ectopy, Mapping) else {"V": float(ectopy)}
    if not set(chances) <= {"V", "A"} or any(not 0 <= c <= 1 for c in chances.values()) or sum(chances.values()) > 1:
        raise SpecError(f"ectopy is {ectopy!r}; needed chances in 0..1 for 'V' and 'A', at most 1 together")
    return {"V": chances.get("V", 0.0), "A": chances.get("A", 0.0)}


def _beats(
    rng: np.random.Generator, heart: float, rhythm: str, ectopy: dict[str, float], duration_s: float
) -> list[_Beat]:
    """Beats from before the start to after the end. A premature beat never follows another."""
    breath, slow = rng.uniform(0.2, 0.3), rng.uniform(0.08, 0.12)
    phases = rng.uniform(0, 2 * np.pi, 2)
    base = 60 / heart
    time, beats, after = -2 * base - rng.uniform(0, base), [], 0.0
    while time < duration_s + 2:
        if rhythm == "af":
            rr = max(0.3, base * float(np.exp(0.24 * rng.standard_normal() - 0.03)))
        else:
            sway = 0.025 * np.sin(2 * np.pi * breath * time + phases[0]) + 0.02 * np.sin(
                2 * np.pi * slow * time + phases[1]
            )
            rr = base * float(1 + sway + 0.008 * rng.standard_normal())
        chance, early = rng.random(), rng.uniform(0.58, 0.74)
        symbol = "N"
        if after:
            rr, after = after, 0.0
        elif chance < ectopy["V"]:
            symbol, after = "V", (2 - early) * rr  # full compensatory pause
            rr *= early
        elif chance < ectopy["V"] + ectopy["A"] and rhythm != "af":
            symbol, after = "A", 1.08 * rr
            rr *= early + 0.06
        time += rr
        beats.append(_Beat(time, symbol, rr))
    return beats


def _dipole(
    rng: np.random.Generator, subject: _Subject, beats: list[_Beat], rate: float, n: int, *, fibrillating: bool
) -> np.ndarray:
    """The heart's dipole, float64 (3, n) in mV."""
    out = np.zeros((3, n))
    j = subject.jitter
    turn = _turn(subject.axis_deg)
    qrs = [(t, s * (1 + 0.05 * j[0]), turn @ np.array(v) * (1 + 0.08 * j[1 + i])) for i, (t, s, v) in enumerate(_QRS)]
    p_wave = np.array(_P[1]) * (1 + 0.15 * j[4])
    gentle = _rotation(np.deg2rad(0.4 * (subject.axis_deg - 55)))
    t_wave = gentle @ np.array(_T[1]) * (1 + 0.12 * j[5]) * (1 - 0.003 * (subject.age - 50))
    side = 1.2 if j[6] > 0 else -1.2
    wide = np.array([-side, 0.5 * j[7], -side]) * (1 + 0.1 * j[8])
    pr_wave = subject.pr_s - 0.04 - 0.03  # s, from the middle of P to the R peak: PR runs from onset to onset
    for k, beat in enumerate(beats):
        rr = beat.rr_s if beat.symbol == "N" else (beats[k - 1].rr_s if k else beat.rr_s)
        swing = 1 + 0.03 * rng.standard_normal()
        qt = subject.qtc_s * min(max(rr, 0.4), 1.5) ** (1 / 3)  # Fridericia
        waves: list[tuple[float, float, float, np.ndarray]] = []
        if beat.symbol == "V":
            waves += [(t, s, s, wide * f) for (t, s), f in zip(_PVC, (1.0, 0.55))]
            waves.append((qt - 0.06, 0.060, 0.045, -0.38 * wide))
        else:
            waves += [(t, s, s, v) for t, s, v in qrs]
            waves.append((qt - 0.04 - 2.2 * _T[0][1], *_T[0], t_wave))
            if not fibrillating:
                shape = p_wave if beat.symbol == "N" else p_wave * np.array([-0.6, 0.4, 1.5])
                waves.append((-pr_wave - 0.02 - _P[0], _P[0], _P[0], shape))
        for centre, rise, fall, vector in waves:
            add_wave(out, beat.time_s + centre, rise, fall, vector * swing, rate)
    out *= subject.scale
    if fibrillating:
        out += _fibrillation(rng, rate, n)
    return out


def add_wave(out: np.ndarray, centre_s: float, rise_s: float, fall_s: float, vector: np.ndarray, rate: float) -> None:
    """Add a Gaussian wave (widths before and after its centre) of a dipole `vector` (3,) in mV to `out` (3, n), in place."""
    first = max(0, int(np.ceil((centre_s - 5 * rise_s) * rate)))
    last = min(out.shape[1], int((centre_s + 5 * fall_s) * rate) + 1)
    if first >= last:
        return
    t = np.arange(first, last) / rate - centre_s
    out[:, first:last] += vector[:, None] * np.exp(-0.5 * (t / np.where(t < 0, rise_s, fall_s)) ** 2)


def _fibrillation(rng: np.random.Generator, rate: float, n: int) -> np.ndarray:
    """f waves: a saw-like tone of drifting frequency around 6 Hz, strongest towards V1."""
    t = np.arange(n) / rate
    tone, drift = rng.uniform(5, 7.5), rng.uniform(0.1, 0.3)
    phase = 2 * np.pi * tone * t + 2.0 * np.sin(2 * np.pi * drift * t + rng.uniform(0, 6.28))
    size = 0.05 * (1 + 0.4 * np.sin(2 * np.pi * 0.37 * t + rng.uniform(0, 6.28)))
    wave = size * (np.sin(phase) + 0.4 * np.sin(2 * phase + 0.5))
    return np.array([-0.25, 0.45, -0.9])[:, None] * wave


def _rotation(angle: float) -> np.ndarray:
    """Turn in the frontal plane (x left towards y down)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _turn(axis_deg: float) -> np.ndarray:
    """The frontal turn after which the QRS area in leads I and aVF points to `axis_deg`."""
    net = np.sum([s * np.array(v) for _, s, v in _QRS], axis=0)
    angles = np.deg2rad(np.arange(-180, 180, 0.5))
    turned = np.stack([_rotation(a) @ net for a in angles], axis=1)
    one, two = np.array(_DOWER["I"]) @ turned, np.array(_DOWER["II"]) @ turned
    measured = np.arctan2((two - one / 2) * 2 / np.sqrt(3), one)
    error = np.abs(np.angle(np.exp(1j * (measured - np.deg2rad(axis_deg)))))
    return _rotation(angles[error.argmin()])


def _twelve(one: np.ndarray, two: np.ndarray, chest: np.ndarray) -> np.ndarray:
    return np.concatenate([[one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2], chest])


def project(dipole: np.ndarray) -> np.ndarray:
    """Dipole (3, n) in mV → the twelve leads (12, n), in the order of `STANDARD_LEADS`."""
    eight = np.array(list(_DOWER.values())) @ dipole
    return _twelve(eight[0], eight[1], eight[2:])


def _combine(electrodes: np.ndarray) -> np.ndarray:
    """Potentials of RA, LA, LL, V1…V6 (9, n) → the twelve leads."""
    ra, la, ll = electrodes[:3]
    return _twelve(la - ra, ll - ra, electrodes[3:] - (ra + la + ll) / 3)


def _amplitudes(noise: float | Mapping[str, float]) -> dict[str, float]:
    if isinstance(noise, Mapping):
        if not set(noise) <= set(_NOISE_MV):
            raise SpecError(
                f"noise has {', '.join(map(repr, set(noise) - set(_NOISE_MV)))}; known: {', '.join(_NOISE_MV)}"
            )
        sizes = {kind: float(noise.get(kind, 0.0)) for kind in _NOISE_MV}
    else:
        sizes = {kind: noise * size for kind, size in _NOISE_MV.items()}
    if any(not (np.isfinite(s) and s >= 0) for s in sizes.values()):
        raise SpecError(f"noise is {noise!r}; needed finite sizes, 0 or more")
    return sizes


def noise_mv(
    rng: np.random.Generator, sizes_mv: Mapping[str, float], rate_hz: float, n: int, mains_hz: float
) -> np.ndarray:
    """Noise of the twelve leads (12, n), mV, made per electrode. sizes_mv: RMS of wander, mains, muscle, electrode."""
    return _combine(_noise(rng, sizes_mv, rate_hz, n, mains_hz))


def _noise(rng: np.random.Generator, sizes: Mapping[str, float], rate: float, n: int, mains_hz: float) -> np.ndarray:
    """Noise of the nine electrodes (9, n), mV. Every kind is drawn whatever its size, so that sizes do not change the
    others."""
    t = np.arange(n) / rate
    rows = len(_ELECTRODES)
    tones, phases = rng.uniform(0.05, 0.5, (rows, 4)), rng.uniform(0, 2 * np.pi, (rows, 5))
    out = np.zeros((rows, n))
    for f, phase in zip(tones.T, phases.T):
        out += sizes["wander"] / np.sqrt(2) * np.sin(2 * np.pi * f[:, None] * t + phase[:, None])
    share = rng.uniform(0.3, 1.0, (rows, 1))
    if mains_hz < rate / 2:
        out += sizes["mains"] * np.sqrt(2) * share * np.sin(2 * np.pi * mains_hz * t + phases[0, 4])
    muscle, motion = rng.standard_normal((rows, n)), rng.standard_normal((rows, n))
    if sizes["muscle"]:
        out += sizes["muscle"] * _band(muscle, 20.0, min(90.0, 0.45 * rate), rate)
    if sizes["electrode"]:
        out += sizes["electrode"] * _band(motion, 1.0, 8.0, rate)
    return out


def _band(white: np.ndarray, low: float, high: float, rate: float) -> np.ndarray:
    """White noise shaped to low…high Hz, RMS 1 a row."""
    from scipy import signal

    if low >= high or high >= rate / 2:
        return np.zeros_like(white)
    shaped = signal.sosfilt(signal.butter(2, [low, high], "bandpass", fs=rate, output="sos"), white, axis=1)
    return shaped / np.maximum(np.sqrt(np.mean(shaped**2, axis=1, keepdims=True)), 1e-12)
