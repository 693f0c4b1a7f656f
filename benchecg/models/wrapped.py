"""Your own checkout of a model that cannot be written or shipped here, because its licence binds it: ST-MEM, ECG-CPC, ECG-FM, others.

The code and the weights stay with you, under their terms. You write a class of a few lines, this module gives it the published
input contract (rate, leads, filters, window) and the time of its tokens:

    # mine.py, on the Python path
    from benchecg.models.wrapped import Wrapped

    class STMEM(Wrapped):
        takes = "st-mem"                        # or a `benchecg.models.network.Contract` of your own
        pretrained_on = ("Chapman-Shaoxing/Ningbo", "CODE-15 %")

        def network(self):
            from my_checkout import build       # their code, your copy
            return build("encoder.pth")         # a torch module: (B, leads, samples) → (B, tokens, D) or (B, D)

Then `benchecg validate-adapter mine:STMEM` and `benchecg run -m mine:STMEM`.
"""

from __future__ import annotations

from torch import nn

from benchecg.models.network import Contract, NetworkAdapter
from xecg.errors import SpecError
from xecg.signal import PRESETS

__all__ = ["CONTRACTS", "Wrapped"]

# Windows as bench-xecg uses them: 9 s, 2.5 s and 5 s. Tokens share the window equally, however many the network gives.
CONTRACTS = {
    "st-mem": Contract(PRESETS["st-mem"], window=2_250),
    "ecg-cpc": Contract(PRESETS["ecg-cpc"], window=600),
    "ecg-fm": Contract(PRESETS["ecg-fm"], window=2_500),
}


class Wrapped(NetworkAdapter):
    """Base of a user's adapter: set `takes`, write `network`. id: by default the class's name in lower case."""

    takes: str | Contract = ""
    pretrained_on: tuple[str, ...] | None = None

    def __init__(self) -> None:
        name, takes = type(self).__name__, self.takes
        if not isinstance(takes, Contract) and takes not in CONTRACTS:
            raise SpecError(
                f"{name}.takes is {takes!r}; needed one of {', '.join(CONTRACTS)}, or a Contract of your own"
            )
        network = self.network()
        if not isinstance(network, nn.Module):
            raise SpecError(f"{name}.network() gave {type(network).__name__}; needed a torch module")
        super().__init__(
            network,
            id=getattr(self, "id", name.lower()),
            contract=takes if isinstance(takes, Contract) else CONTRACTS[takes],
            about="the user's own checkout" if isinstance(takes, Contract) else f"{takes}, the user's own checkout",
            trained=True,
            pretrained_on=self.pretrained_on,
        )

    def network(self) -> nn.Module:
        """Your encoder: preprocessed (B, leads, samples) → (B, tokens, D), or (B, D)."""
        raise NotImplementedError
