"""The mLSTM as a layer of your own network: exact gradients, ragged batches, and a state that goes on.

    python examples/04_ops_in_your_network.py

The task: tell at every step which symbol came right after the first marker. The layer must remember it.
"""

import torch
from torch import Tensor, nn

from xecg import ops

HEADS, WIDTH, SYMBOLS, STEPS = 2, 32, 6, 40


class Layer(nn.Module):
    """q, k, v and both gates from one projection; the op takes the views as they are, without copies."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.gates = nn.Linear(WIDTH, 2 * HEADS)
        self.out = nn.Linear(WIDTH, WIDTH)
        nn.init.constant_(self.gates.bias[HEADS:], 4.0)  # forget slowly at first

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = self.qkv(y).unflatten(-1, (3, HEADS, -1)).unbind(2)  # each (B, T, H, D)
        i, f = self.gates(y).unflatten(-1, (2, HEADS)).unbind(2)  # each (B, T, H)
        return x + self.out(ops.mlstm(q, k, v, i, f, lengths=lengths).flatten(2))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS + 1, WIDTH)
        self.conv = nn.Parameter(torch.randn(WIDTH, 4) / 2)
        self.layer = Layer()
        self.head = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, symbols: Tensor, lengths: Tensor) -> Tensor:
        x = ops.causal_conv1d(self.embed(symbols), self.conv, activation="silu", lengths=lengths)
        return self.head(self.layer(x, lengths))


def batch(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random symbols with one marker (the last symbol number); the answer is the symbol behind it."""
    symbols = torch.randint(SYMBOLS, (size, STEPS))
    marker = torch.randint(STEPS // 2, (size, 1))
    symbols.scatter_(1, marker, SYMBOLS)
    lengths = torch.randint(STEPS // 2 + 2, STEPS + 1, (size,))
    return symbols, lengths, symbols.gather(1, marker + 1)[:, 0]


torch.manual_seed(0)
network = Network()
optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
for step in range(151):
    symbols, lengths, answer = batch(64)
    last = network(symbols, lengths)[torch.arange(64), lengths - 1]
    loss = nn.functional.cross_entropy(last, answer)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if step % 50 == 0:
        accuracy = (last.argmax(-1) == answer).float().mean()
        print(f"step {step:3}  loss {loss:.3f}  right {accuracy:.0%}")
print("backends of mlstm here:", ops.backends("mlstm", "cpu"))
