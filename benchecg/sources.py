"""Where the data sets come from: those that can be downloaded without an account, and the steps for those that cannot."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SOURCES", "STEPS", "Source"]

_PHYSIONET = "https://physionet.org"


@dataclass(frozen=True)
class Source:
    """An open release with a SHA256SUMS.txt at its root, as PhysioNet publishes it.

    url: of that root, ending in "/". wanted: beginnings of the paths that the tasks read; () for all. size_mb: of those, about.
    """

    name: str
    folder: str
    url: str
    licence: str
    licence_url: str
    size_mb: int
    wanted: tuple[str, ...] = ()


def _physionet(
    name: str, folder: str, slug: str, version: str, licence: str, size_mb: int, wanted: tuple[str, ...] = ()
) -> Source:
    terms = f"{_PHYSIONET}/content/{slug}/view-license/{version}/"
    return Source(name, folder, f"{_PHYSIONET}/files/{slug}/{version}/", licence, terms, size_mb, wanted)


_ODC = "Open Data Commons Attribution License 1.0 (ODC-By)"
_CC_BY = "Creative Commons Attribution 4.0 (CC BY 4.0)"
SOURCES = {
    source.folder: source
    for source in (
        _physionet("MIT-BIH Arrhythmia Database 1.0.0", "mitdb", "mitdb", "1.0.0", _ODC, 110),
        _physionet("MIT-BIH Noise Stress Test Database 1.0.0", "nstdb", "nstdb", "1.0.0", _ODC, 40),
        _physionet("Apnea-ECG 1.0.0", "apnea-ecg", "apnea-ecg", "1.0.0", _ODC, 600),
        _physionet(
            "PTB-XL 1.0.3, the 500 Hz records", "ptb-xl", "ptb-xl", "1.0.3", _CC_BY, 2_700,
            ("ptbxl_database.csv", "scp_statements.csv", "LICENSE", "records500/"),
        ),
        _physionet(
            "CPSC 2018 of the PhysioNet Challenge 2021 1.0.3", "challenge-2021", "challenge-2021", "1.0.3", _CC_BY, 1_600,
            ("training/cpsc_2018/", "LICENSE"),
        ),
    )
}  # fmt: skip

_CREDENTIALED = (
    "make an account at https://physionet.org/register/ and have it credentialed (https://physionet.org/settings/credentialing/; "
    "needs a referee and the course that the page names)"
)
STEPS = {
    "mimic-iv-ecg": (
        "read the licences: ODbL 1.0 (signals), PhysioNet Credentialed Health Data License 1.5.0 (labels, patients, laboratory)",
        _CREDENTIALED,
        "sign the data use agreements at the foot of https://physionet.org/content/mimiciv/ and of "
        "https://physionet.org/content/mimic-iv-ecg-ext-icd-labels/",
        "signals, 90 GB, no account needed: "
        "wget -r -N -c -np -nH --cut-dirs=3 https://physionet.org/files/mimic-iv-ecg/1.0/ -P {folder}",
        "labels and folds: records_w_diag_icd10.csv of the second page, by the wget command at its foot, into {folder}",
        "blood tests: hosp/d_labitems.csv.gz and hosp/labevents.csv.gz of mimiciv, by its page's wget command, into {folder}; "
        "survival: hosp/patients.csv.gz and hosp/admissions.csv.gz likewise",
    ),
    "code-15": (
        "read the licence: CC BY 4.0",
        "for i in $(seq 0 17); do curl -L -C - -O https://zenodo.org/records/4916206/files/exams_part$i.zip; done",
        "curl -L -C - -O https://zenodo.org/records/4916206/files/exams.csv",
        "compare the MD5 sums that https://zenodo.org/records/4916206 shows; unzip all into {folder}",
    ),
    "challenge-2025": (
        "read the licence: CC BY 4.0",
        "follow https://moody-challenge.physionet.org/2025/ (Data): it turns CODE-15 % into WFDB records",
        "put the records into {folder}",
    ),
    "deepbeat": (
        "ask its authors for the data and the terms: https://github.com/AshleyLab/deepbeat",
        "put train.npz, validate.npz and test.npz into {folder}",
        "save the subject column of `parameters` of each as a plain array *_subject.npy, where opening a pickle does no harm",
    ),
    "exercise-ecg": (
        "find 'ECG in High Intensity Exercise Dataset' at https://zenodo.org and read the licence on its page",
        "unpack it into {folder}",
    ),
}
