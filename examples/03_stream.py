"""A live stream: chunks of any size go in, tokens and beats come out with the sample they belong to, memory stays constant.

    python examples/03_stream.py

Two synthetic patients share one stream object; one of them is saved, closed and restored half way.
"""

import numpy as np

import xecg
from xecg.signal import simulate
from xecg.stream import Token

model = xecg.load("tiny-causal")
patients = {f"bed-{n}": simulate.ecg(seed=n, duration_s=20.0) for n in (1, 2)}
first = patients["bed-1"]

stream = xecg.Stream(model, rate=first.rate, leads=first.leads, capacity=2)
for name in patients:
    stream.open(name)

rng = np.random.default_rng(0)
position = dict.fromkeys(patients, 0)
found = {name: [] for name in patients}
moved = False
while any(position[name] < patients[name].signal.shape[1] for name in patients):
    sizes = {name: int(rng.integers(1, 700)) for name in patients}  # as networks deliver
    chunks = {name: r.signal[:, position[name] : position[name] + sizes[name]] for name, r in patients.items()}
    for item in stream.push(chunks, start=position):
        found[item.id].append(item)
    position = {name: position[name] + chunks[name].shape[1] for name in patients}
    if position["bed-1"] > 5000 and not moved:
        blob = stream.save("bed-1")  # all that the stream remembers: to another process, another machine
        stream.close("bed-1")
        stream.restore(blob)
        moved = True
        print(f"bed-1 moved after {position['bed-1']:,} samples, {len(blob):,} bytes")
for name in patients:
    found[name] += stream.flush(name)
    tokens = sum(isinstance(item, Token) for item in found[name])
    beats = sum(item.kind == "beat" for item in found[name] if not isinstance(item, Token))
    print(
        f"{name}: {tokens} tokens of {patients[name].duration_s:g} s, each {stream.delay_s:.2f} s late; {beats} beats"
    )
