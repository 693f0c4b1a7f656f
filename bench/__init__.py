"""Throughput of xecg beside its peers.

`python -m bench run SUITE --json FILE` measures, `python -m bench check FILE` lists missed bars.
"""
