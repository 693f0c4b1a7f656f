"""One recording to one vector, in the four calls that everything else is made of.

    python examples/01_embed_one.py [RECORDING]

Without an argument the recording is synthetic.
"""

import sys

import torch

import xecg

recording = xecg.read(sys.argv[1]) if len(sys.argv) > 1 else xecg.signal.simulate.ecg(seed=1, rhythm="af")
model = xecg.load("tiny")
ready = xecg.preprocess(recording, model.spec)  # x and mask, (leads, samples), as the model was trained

x, mask = torch.from_numpy(ready.x)[None], torch.from_numpy(ready.mask)[None]  # a batch of one
with torch.inference_mode():
    tokens = model.encode(x, mask=mask)  # (1, T, D), four tokens a second
    vector = model.embed(x, mask=mask)  # (1, D), the mean of the valid tokens

print(f"{recording.source}: {len(recording.leads)} leads, {recording.rate:g} Hz, {recording.duration_s:g} s")
print(f"tokens {tuple(tokens.shape)}, embedding {tuple(vector.shape)}, norm {vector.norm():.3f}")
if not model.trained:
    print(f"model {model.name!r} is untrained: the vector means nothing yet")
