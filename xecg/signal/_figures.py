"""What every picture has in common: the formats, the footer, and a file written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from xecg.errors import SpecError, XECGError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOOTER = "Research use only, not a medical device"
_FORMATS = (".png", ".pdf", ".svg")


def picture_path(path: str | Path) -> Path:
    """`path` if its suffix names a format that can be written. Raises SpecError."""
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise SpecError(f"path ends in {path.suffix!r}; needed one of {', '.join(_FORMATS)}")
    return path


def figure_class() -> type[Figure]:
    """matplotlib's Figure, without pyplot's global state. Raises XECGError when matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise XECGError("matplotlib is not installed; drawing needs it: pip install 'xecg[plot]'") from None
    return Figure


def save(figure: Figure, path: Path, dpi: int) -> Path:
    """Write in the format of the suffix, undated so that equal pictures are equal files; returns `path`."""
    import matplotlib

    from xecg.io.atomic import write_bytes

    kind = path.suffix.lower()[1:]
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}[kind]
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "xecg"}):
        figure.savefig(out, format=kind, dpi=dpi, metadata=undated)
    write_bytes(path, out.getvalue())
    return path
