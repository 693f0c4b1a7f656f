"""Entries of the suite `gpu`, and nothing else: devices, floors and peers are in bench.device, bench.floors, bench.gpu_peers."""
