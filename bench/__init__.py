"""Throughput of xecg beside its peers. `python -m bench cpu --json FILE` measures, `python -m bench check FILE` lists missed bars."""
