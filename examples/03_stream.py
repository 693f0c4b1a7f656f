"""A live stream: chunks of any size go in, tokens come out with the sample time they belong to, memory stays constant.

    python examples/03_stream.py

Two synthetic patients share one stream object; one of them is saved, closed and restored half way.
"""

import numpy as np

import xecg
from xecg.signal import simulate

model = xecg.load("tiny-causal")
patients = {f"bed-{n}": simulate.ecg(seed=n, duration_s=20.0) for n in (1, 2)}
first = patients["bed-1"]

stream = xecg.Stream(model, rate=first.rate, leads=first.leads, capacity=2)
for name in patients:
    stream.open(name)

rng = np.random.default_rng(0)
position, tokens = dict.fromkeys(patients, 0), dict.fromkeys(patients, 0)
moved = False
while any(position[name] < patients[name].signal.shape[1] for name in patients):
    for name, recording in patients.items():
        chunk = recording.signal[:, position[name] : position[name] + int(rng.integers(1, 700))]  # as networks deliver
        tokens[name] += len(stream.push(name, chunk, start=position[name]))
        position[name] += chunk.shape[1]
    if position["bed-1"] > 5000 and not moved:
        blob = stream.save("bed-1")  # all that the stream remembers: to another process, another machine
        stream.close("bed-1")
        stream.restore(blob)
        moved = True
        print(f"bed-1 moved after {position['bed-1']:,} samples, {len(blob):,} bytes")
for name in patients:
    tokens[name] += len(stream.flush(name))
    print(f"{name}: {tokens[name]} tokens of {patients[name].duration_s:g} s, each {stream.delay_s:.2f} s late")
