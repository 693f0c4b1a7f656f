"""Models whose architecture is written here from its description and whose weights are a file that the user downloaded.

Such an adapter says "not validated against origin weights", and its runs stay out of `compare`, until
`benchecg validate-adapter NAME=FILE --reference REF.npz` has passed on this machine. REF.npz is made with the origin's own code:
`x`, float32 (n, leads, samples), inputs as the network takes them, and `features` (n, D), what the origin's encoder says of them.
What passed is written beside the checkpoint and holds for exactly those bytes and this version of the adapter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchecg.models.network import Contract, NetworkAdapter
from xecg.errors import CheckpointError, ReadError

__all__ = ["OriginAdapter", "read_weights"]

_TOLERANCE = 1e-4  # of the largest feature of the reference
_SUFFIX = ".benchecg.json"
_PARTS = 1 << 20


class OriginAdapter(NetworkAdapter):
    """A `NetworkAdapter` on a checkpoint of somebody else. version: of the architecture written here; named in what was validated."""

    def __init__(
        self,
        network: nn.Module,
        *,
        id: str,
        version: int,
        contract: Contract,
        about: str,
        file: Path,
        pretrained_on: tuple[str, ...] | None,
    ) -> None:
        self._file, self._version, self._sha256 = file, f"{id}/{version}", _sha256(file)
        super().__init__(
            network, id=id, contract=contract, trained=True, pretrained_on=pretrained_on,
            about=about, fingerprint=self._sha256[:16] + f"-{version}",
        )  # fmt: skip
        self.validated = self._read_stamp() == self._stamp()
        self.about += f", weights of {file.name}" + ("" if self.validated else ", NOT validated against origin weights")

    def differs_from(self, reference: Path) -> tuple[float, float]:
        """Largest difference from the origin's features, and what is allowed. Raises ReadError on a reference that proves nothing."""
        x, wanted = _read_reference(reference, len(self.spec.leads), self.contract.window)
        with torch.inference_mode():
            found = self.module()(torch.from_numpy(x)).mean(1).numpy()
        if found.shape != wanted.shape:
            raise ReadError(
                str(reference), "features", f"of shape {wanted.shape}", f"needed {found.shape}, a vector per input"
            )
        return float(np.abs(found - wanted).max()), _TOLERANCE * float(np.abs(wanted).max())

    def accept(self) -> Path:
        """Write down beside the checkpoint that the self-test passed; returns where."""
        from xecg.io.atomic import write_json

        path = self._file.with_name(self._file.name + _SUFFIX)
        write_json(path, self._stamp())
        return path

    def _stamp(self) -> dict[str, str]:
        return {"adapter": self._version, "weights_sha256": self._sha256}

    def _read_stamp(self) -> Any:
        try:
            return json.loads(self._file.with_name(self._file.name + _SUFFIX).read_bytes())
        except (OSError, ValueError):
            return None


def read_weights(file: Path, key: str, network: nn.Module, *, unused: tuple[str, ...] = ()) -> None:
    """Load entry `key` of a torch file into `network`, every weight of it. unused: parts of names that the network has no use for.

    The file is opened with `weights_only=True`: it can hold arrays and nothing that runs. Raises CheckpointError.
    """
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}; pass the checkpoint that you downloaded, as NAME=FILE")
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's parser met; its words would advise to open the file unsafely
        raise CheckpointError(
            f"{file} cannot be read as plain weights ({type(error).__name__}); needed a torch file of arrays only. If you trust its "
            f"source, save it again without its other objects, in a place where opening a pickle does no harm"
        ) from None
    weights = stored.get(key) if isinstance(stored, Mapping) else None
    if not isinstance(weights, Mapping):
        found = ", ".join(map(str, list(stored)[:8])) if isinstance(stored, Mapping) else type(stored).__name__
        raise CheckpointError(f"{file} has no entry {key!r} (it holds {found}); this is not the file of that model")
    kept = {n.removeprefix("module."): v for n, v in weights.items() if not any(part in n for part in unused)}
    _load(file, network, kept)


def _load(file: Path, network: nn.Module, weights: Mapping[str, Any]) -> None:
    wanted = network.state_dict()
    lacking, foreign = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    wrong = [n for n in wanted.keys() & weights.keys() if _shape(weights[n]) != tuple(wanted[n].shape)]
    if lacking or foreign or wrong:
        said = [("lacks", lacking), ("has besides", foreign), ("has other shapes for", sorted(wrong))]
        raise CheckpointError(
            f"{file} {'; '.join(f'{what} {len(names)} weights ({names[0]}, …)' for what, names in said if names)}; "
            "needed the weights of the architecture, no more and no fewer"
        )
    network.load_state_dict(dict(weights))


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _read_reference(file: Path, leads: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    hint = "Make it with the origin's own code; docs/MODELS.md says how."
    try:
        with np.load(file, allow_pickle=False) as stored:
            x, features = np.asarray(stored["x"], np.float32), np.asarray(stored["features"], np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ReadError(
            str(file), "reference", f"unreadable ({error})", "needed an .npz file with x and features", hint
        ) from None
    if x.ndim != 3 or x.shape[1:] != (leads, samples) or len(x) < 2:
        raise ReadError(str(file), "x", f"of shape {x.shape}", f"needed (n, {leads}, {samples}), n of 2 or more", hint)
    if not (np.isfinite(x).all() and np.isfinite(features).all()) or features.std(0).max() == 0:
        raise ReadError(str(file), "features", "the same for every input, or not finite", "needed different ones", hint)
    return x, features


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while part := handle.read(_PARTS):
            digest.update(part)
    return digest.hexdigest()
