"""Lead names: the twelve standard leads, their aliases, and the one rule that maps names (lower-cased, never by position)."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["STANDARD_LEADS", "canonical_lead", "canonical_leads"]

STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

# DI DII DIII: CODE; MLII: the modified limb lead II of MIT-BIH; C1…C6: IEC names of V1…V6.
_ALIASES = {"di": "I", "dii": "II", "diii": "III", "mlii": "II", "mli": "I", "mliii": "III"}
_ALIASES |= {lead.lower(): lead for lead in STANDARD_LEADS} | {f"c{n}": f"V{n}" for n in range(1, 7)}


def canonical_lead(name: str) -> str:
    """The standard name of a lead, or the stripped name as found when it is not one of the twelve."""
    text = name.strip()
    low = text.lower().replace(" ", "")
    for prefix in ("ecg", "lead", "ekg"):
        if low.startswith(prefix) and low[len(prefix) :].lstrip("_-: ") in _ALIASES:
            low = low[len(prefix) :].lstrip("_-: ")
    return _ALIASES.get(low, text)


def canonical_leads(names: Iterable[str]) -> tuple[str, ...]:
    """`canonical_lead` of each name, in order."""
    return tuple(canonical_lead(name) for name in names)
