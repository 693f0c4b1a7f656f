"""Simulated records for training, with the class of every beat: richer in rhythms and shapes than `xecg.signal.simulate`.

The same dipole and lead model; what differs from record to record is drawn wide: conduction (normal, bundle branch blocks,
paced), ventricular foci of any direction, fusion, premature atrial and junctional beats, runs, blocked P waves, pauses and
escapes, fibrillation, axis, sizes, noise. Ranges are our own, chosen to be wider than life. Classes are those of AAMI EC57.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xecg.signal.leads import STANDARD_LEADS
from xecg.signal.recording import Annotations, LogEntry, Recording
from xecg.signal.simulate import add_wave, noise_mv, project

__all__ = ["KINDS", "kind_of", "record"]

KINDS = ("N", "S", "V", "F", "Q")  # Q: paced and unclassifiable
_SYMBOL = ("N", "A", "V", "F", "/")
_CLASS = {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"}
_N, _S, _V, _F, _Q = range(len(KINDS))
_RATE_HZ = 250.0

_Wave = tuple[float, float, np.ndarray]  # centre (s after the R peak), width (s, standard deviation), dipole (mV)


def kind_of(symbol: str) -> int:
    """Index into `KINDS` of a WFDB beat symbol; −1 for any other mark."""
    return next((i for i, name in enumerate(KINDS) if symbol in _CLASS[name]), -1)


@dataclass(frozen=True)
class _Beat:
    time_s: float
    kind: int
    focus: int  # of a ventricular beat
    rr_s: float
    aberrant: bool = False
    blend: float = 0.5  # share of the focus in a fused beat
    conducted: bool = True  # else a P wave that no QRS complex follows
    escape: bool = False  # of a focus without a P wave before it


def record(*, seed: int, index: int, duration_s: float = 12.0) -> Recording:
    """Record number `index` of the series `seed`: 12 leads at 250 Hz, mV, annotated N, A, V, F, "/" at every R peak."""
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    n = round(_RATE_HZ * duration_s)
    af, paced = rng.random() < 0.13, rng.random() < 0.04
    beats = _beats(rng, duration_s, af=af, paced=paced)
    dipole = _dipole(rng, beats, n, af=af, paced=paced)
    leads = project(dipole) * np.exp(0.15 * rng.standard_normal((12, 1)))
    leads *= np.exp(0.35 * rng.standard_normal())
    signal = (leads + _disturbance(rng, n)).astype(np.float32)
    inside = [(round(b.time_s * _RATE_HZ), _SYMBOL[b.kind]) for b in beats if b.conducted]
    inside = [(s, symbol) for s, symbol in inside if 0 <= s < n]
    symbols = tuple(symbol for _, symbol in inside)
    marks = Annotations(np.array([s for s, _ in inside], np.int64), symbols, ("",) * len(symbols))
    log = (LogEntry("noted", "source", "synthetic signal from a simulator, not a recording of a person"),)
    source = f"synthetic:training-{seed}-{index}"
    return Recording(
        signal,
        _RATE_HZ,
        STANDARD_LEADS,
        np.ones(signal.shape, bool),
        source,
        0.0,
        marks,
        log,
        None,
        {"synthetic": True},
    )


# Rhythm.


def _beats(rng: np.random.Generator, duration_s: float, *, af: bool, paced: bool) -> list[_Beat]:
    base = 60 / float(np.clip(np.exp(rng.normal(np.log(76), 0.3)), 38, 165))
    sway, breath, walk = rng.uniform(0, 0.12) * (rng.random() < 0.7), rng.uniform(0.15, 0.35), rng.uniform(0.003, 0.02)
    spread = rng.uniform(0.12, 0.3)  # of the intervals in fibrillation
    phase = rng.uniform(0, 2 * np.pi)
    habit = _Habit.draw(rng, af=af)
    time, drift, since = -3 * base - rng.uniform(0, base), 0.0, 0
    left, kind, pause = 0, _N, 0.0
    beats: list[_Beat] = []
    while time < duration_s + 2:
        drift = 0.97 * drift + walk * rng.standard_normal()
        if af:
            rr = max(0.28, base * float(np.exp(spread * rng.standard_normal())))
        else:
            rr = base * (1 + sway * np.sin(2 * np.pi * breath * time + phase) + drift)
        rr = max(0.27, rr)
        now, focus, aberrant, blend, escape = _N, 0, False, 0.5, False
        due = since % habit.every == habit.every - 1 if habit.every else None
        if left:  # a run goes on
            now, left = kind, left - 1
            early = habit.early_v if now == _V else habit.early_s
            rr = max(0.27, rr * early * rng.uniform(0.93, 1.07))
            pause = rr * rng.uniform(1.0, 1.6) / early if not left else 0.0
            focus, aberrant = beats[-1].focus, beats[-1].aberrant
        elif pause:
            rr, pause = max(0.3, pause), 0.0
            if rng.random() < 0.03:
                now, focus = _V, int(rng.integers(habit.foci))  # a ventricular escape
            escape = rng.random() < habit.escape
        elif (due and habit.of == _V) or (due is None and rng.random() < habit.chance_v):
            now, focus = _V, int(rng.integers(habit.foci)) if rng.random() < 0.3 else 0
            kind, left = _V, int(rng.integers(1, 7)) if rng.random() < habit.run_v else 0
            early = float(np.clip(habit.early_v * rng.normal(1, 0.06), 0.36, 1.0))
            rest = (1 - early) if rng.random() < habit.interpolated else rng.uniform(1.7, 2.05) - early
            rr, pause = max(0.27, rr * early), rr * rest
        elif rng.random() < habit.chance_f:  # a focus fires as the beat that was due comes down
            now, blend = _F, rng.uniform(0.2, 0.8)
            rr *= rng.uniform(0.93, 1.0)
        elif (due and habit.of == _S) or rng.random() < habit.chance_s:
            early = float(np.clip(habit.early_s * rng.normal(1, 0.06), 0.42, 0.96))
            if rng.random() < habit.blocked:  # too early to be conducted: the pause says that it was there
                beats.append(_Beat(time + rr * early * 0.8, _S, 0, rr, conducted=False))
                rr *= rng.uniform(1.2, 1.7)
            else:
                now, aberrant = _S, rng.random() < habit.aberrant
                longest = 40 if habit.sustained else 9
                kind, left = _S, int(rng.integers(1, longest)) if rng.random() < habit.run_s else 0
                rr, pause = max(0.29, rr * early), rr * rng.uniform(0.95, 1.4)
        elif rng.random() < habit.dropped:
            rr *= rng.uniform(1.6, 2.2)
            escape = rng.random() < habit.escape
        time += rr
        since += 1
        beats.append(_Beat(time, _Q if paced and now == _N else now, focus, rr, aberrant, blend, escape=escape))
    return beats


@dataclass(frozen=True)
class _Habit:
    """What is out of step in a record, and how often. every: each which beat is premature, of class `of`; 0 = by chance."""

    chance_v: float
    chance_s: float
    chance_f: float
    every: int
    of: int
    run_v: float
    run_s: float
    sustained: bool
    interpolated: float
    dropped: float
    blocked: float
    aberrant: float
    escape: float
    early_v: float
    early_s: float
    foci: int

    @classmethod
    def draw(cls, rng: np.random.Generator, *, af: bool) -> _Habit:
        ectopic = rng.random() < 0.75
        v = rng.uniform(0.02, 0.28) if ectopic and rng.random() < 0.6 else 0.0
        s = rng.uniform(0.02, 0.4) if ectopic and not af and rng.random() < 0.65 else 0.0
        every = int(rng.integers(2, 5)) if (v or s) and rng.random() < 0.2 else 0  # bigeminy, trigeminy, quadrigeminy
        of = _V if not s or (v and rng.random() < 0.5) else _S
        if every and of == _S:
            s = 0.0
        return cls(
            chance_v=v, chance_s=s, every=every, of=of,
            chance_f=rng.uniform(0.02, 0.2) if rng.random() < (0.3 if v else 0.04) else 0.0,
            run_v=0.5 * rng.uniform(0, 0.3), run_s=0.5 * rng.uniform(0, 0.5), sustained=rng.random() < 0.15,
            interpolated=rng.uniform(0, 0.3), dropped=rng.uniform(0.03, 0.2) if rng.random() < 0.1 else 0.0,
            blocked=rng.uniform(0, 0.5) if rng.random() < 0.2 else 0.0,
            aberrant=rng.uniform(0.2, 0.9) if rng.random() < 0.12 else 0.05,
            escape=rng.uniform(0.2, 1) if rng.random() < 0.3 else 0.0,
            early_v=rng.uniform(0.42, 0.9), early_s=rng.uniform(0.5, 0.92), foci=int(rng.integers(1, 4)),
        )  # fmt: skip


# Shapes.


def _dipole(rng: np.random.Generator, beats: list[_Beat], n: int, *, af: bool, paced: bool) -> np.ndarray:
    """The heart's dipole, float64 (3, n) in mV."""
    conduction = "paced" if paced else str(rng.choice(["normal", "left", "right", "odd"], p=(0.68, 0.12, 0.13, 0.07)))
    turn = _rotation(rng, 0.3 if rng.random() < 0.8 else 0.9)
    normal = _normal_qrs(rng, turn)
    dominant = _conducted(rng, normal, conduction, turn)
    aberrant = _conducted(rng, normal, "left" if rng.random() < 0.3 else "right", turn)
    foci = [_ventricular(rng) for _ in range(3)]
    qtc = rng.normal(0.41, 0.03)
    pr = rng.uniform(0.08, 0.22) - 0.07
    no_p = af or rng.random() < 0.08
    p = turn @ np.array([0.055, 0.105, -0.025]) * float(np.exp(0.5 * rng.standard_normal()))
    p_early = _rotation(rng, 1.0) @ p * rng.uniform(0, 1.3)
    pr_early = pr
    if (
        rng.random() < 0.2
    ):  # a focus at the junction: the atria are reached backward, before, in or after the QRS complex
        p_early, pr_early = -p * rng.uniform(0.4, 1.2), rng.uniform(-0.2, 0.06)
    t_size = rng.normal(1, 0.6) * (-1 if conduction in ("left", "paced") else 1)
    t_wave = turn @ _rotation(rng, 0.4) @ np.array([0.27, 0.23, -0.17]) * t_size
    t_width, swing = rng.uniform(0.03, 0.06), rng.uniform(0.01, 0.07)
    st = _rotation(rng, 1.5) @ np.array([0.1, 0, 0]) * rng.standard_normal() * (rng.random() < 0.3)
    breath, phase = rng.uniform(0.15, 0.35), rng.uniform(0, 2 * np.pi)
    out = np.zeros((3, n))
    for k, beat in enumerate(beats):
        rr = beats[k - 1].rr_s if k and beat.kind else beat.rr_s
        qt = qtc * min(max(rr, 0.4), 1.5) ** (1 / 3)
        size = 1 + swing * (rng.standard_normal() * 0.5 + np.sin(2 * np.pi * breath * beat.time_s + phase))
        main, repolar = _waves(beat, foci, aberrant, dominant)
        waves: list[_Wave] = list(main)
        if not beat.conducted:
            waves = [(0.0, rng.uniform(0.02, 0.03), p_early)]
        elif beat.kind == _V or repolar is not None:
            waves.append((qt - 0.05, 0.055, repolar if repolar is not None else np.zeros(3)))
        if beat.conducted and beat.kind != _V:
            share = 1 - beat.blend if beat.kind == _F else 1.0
            waves += [(qt - 0.13, t_width, t_wave * share), (0.11, 0.045, st * share)]
            if beat.kind == _S:
                waves.append((-pr_early - 0.045, rng.uniform(0.02, 0.03), p_early))
            elif not (no_p or beat.escape or (paced and pr < 0.05)):
                waves.append((-pr - 0.045, 0.024, p))
        for centre, width, vector in waves:
            add_wave(out, beat.time_s + centre, width, width, vector * size, _RATE_HZ)
    if af:
        out += _fibrillation(rng, n)
    return out


def _waves(
    beat: _Beat, foci: list[list[_Wave]], aberrant: list[_Wave], dominant: list[_Wave]
) -> tuple[list[_Wave], np.ndarray | None]:
    """The waves of the QRS complex, and the T vector of a beat that does not repolarise as the others do."""
    if beat.kind == _V:
        main = foci[beat.focus]
        return main[:-1], main[-1][2]
    if beat.kind == _F:
        other = foci[beat.focus]
        whole = [(c, s, (1 - beat.blend) * v) for c, s, v in dominant]
        return whole + [(c, s, beat.blend * v) for c, s, v in other[:-1]], beat.blend * other[-1][2]
    return (aberrant if beat.aberrant else dominant), None


def _normal_qrs(rng: np.random.Generator, turn: np.ndarray) -> list[_Wave]:
    parts = (
        (-0.024, 0.0085, (-0.13, -0.09, -0.26)),
        (0.0, 0.0115, (0.98, 0.80, 0.32)),
        (0.027, 0.011, (-0.17, -0.14, 0.46)),
    )
    wide = float(np.exp(0.15 * rng.standard_normal()))
    out = []
    for centre, width, vector in parts:
        shape = turn @ _rotation(rng, 0.15) @ np.array(vector) * float(np.exp(0.35 * rng.standard_normal()))
        out.append((centre * wide, width * wide, shape))
    return out


def _conducted(rng: np.random.Generator, normal: list[_Wave], how: str, turn: np.ndarray) -> list[_Wave]:
    """The normal beat as a block makes it: late and slow forces to the blocked side (x left, y down, z back)."""
    if how == "normal":
        return normal
    size, late = rng.uniform(0.5, 1.3), rng.uniform(0.045, 0.075)
    if how == "right":
        return [*normal, (late, rng.uniform(0.014, 0.024), turn @ np.array([-0.5, 0.1, -0.55]) * size)]
    if how == "left":
        one, two = np.array([0.7, 0.35, 0.7]), np.array([0.9, 0.25, 0.45])
        return [
            (-0.02, 0.018, turn @ one * size), (late - 0.03, rng.uniform(0.018, 0.026), turn @ two * size),
            (late, 0.018, turn @ one * 0.5 * size),
        ]  # fmt: skip
    if how == "paced":
        vector = _rotation(rng, 0.5) @ np.array([0.5, -0.9, 0.6])
        return [
            (-0.07, 0.002, rng.uniform(0.2, 2) * vector), (-0.005, 0.025, vector * size),
            (0.04, 0.025, vector * 0.6 * size),
        ]  # fmt: skip
    slow = float(rng.uniform(1.3, 2.0))
    return [(c * slow, s * slow, v) for c, s, v in normal]


def _ventricular(rng: np.random.Generator) -> list[_Wave]:
    """A focus: slow waves in any direction; the last entry is its T wave, against the main force."""
    way = rng.standard_normal(3) * (1, 1.2, 1)
    way *= rng.uniform(0.7, 2.4) / np.linalg.norm(way)
    gap = rng.uniform(0.025, 0.06)
    first, second = rng.uniform(0.014, 0.03), rng.uniform(0.016, 0.036)
    other = _rotation(rng, 0.6) @ way * rng.uniform(-0.6, 0.9)
    before = _rotation(rng, 0.8) @ way * rng.uniform(-0.35, 0.35)
    t_wave = _rotation(rng, 0.3) @ way * -rng.uniform(0.1, 0.5)
    return [(-gap * 0.9, 0.014, before), (0.0, first, way), (gap, second, other), (0, 0, t_wave)]


def _rotation(rng: np.random.Generator, spread_rad: float) -> np.ndarray:
    """A random turn of about `spread_rad` round a random axis (Rodrigues' formula)."""
    axis = rng.standard_normal(3)
    x, y, z = axis / np.linalg.norm(axis)
    angle = spread_rad * rng.standard_normal()
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def _fibrillation(rng: np.random.Generator, n: int) -> np.ndarray:
    t = np.arange(n) / _RATE_HZ
    phase = 2 * np.pi * rng.uniform(4, 8) * t + 2 * np.sin(2 * np.pi * rng.uniform(0.1, 0.3) * t + rng.uniform(0, 6))
    size = rng.uniform(0, 0.12) * (1 + 0.4 * np.sin(2 * np.pi * 0.37 * t + rng.uniform(0, 6)))
    return (
        np.array([-0.25, 0.45, -0.9])[:, None] * size * (np.sin(phase) + rng.uniform(0, 0.6) * np.sin(2 * phase + 0.5))
    )


def _disturbance(rng: np.random.Generator, n: int) -> np.ndarray:
    """Noise of the leads (12, n), mV; one record in three has a burst of it."""
    log = lambda low, high: float(np.exp(rng.uniform(np.log(low), np.log(high))))  # noqa: E731
    sizes = {
        "wander": log(0.01, 0.3),
        "mains": log(0.001, 0.03),
        "muscle": log(0.004, 0.07),
        "electrode": log(0.002, 0.06),
    }
    out = noise_mv(rng, sizes, _RATE_HZ, n, float(rng.choice([50.0, 60.0])))
    if rng.random() < 0.33:
        more = {"wander": 0.0, "mains": 0.0, "muscle": log(0.02, 0.3), "electrode": log(0.02, 0.4)}
        t = np.arange(n) / _RATE_HZ
        around = np.exp(-0.5 * ((t - rng.uniform(0, t[-1])) / rng.uniform(0.4, 1.5)) ** 4)
        out += around * noise_mv(rng, more, _RATE_HZ, n, 50.0)
    return out
