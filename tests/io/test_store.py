"""The training store: what went in comes out, to a 32,000th; a damaged or unfinished one is refused."""

from __future__ import annotations

import numpy as np
import pytest

from xecg.errors import ReadError, ShapeError
from xecg.io.store import Store, StoreItem, write_store


def _items() -> list[StoreItem]:
    rng = np.random.default_rng(0)
    items = []
    for index, samples in enumerate((500, 37, 1000)):
        signal = rng.normal(0, 10.0 ** (index - 1), (2, samples)).astype(np.float32)
        mask = np.ones(signal.shape, bool)
        mask[1, 3:7] = False
        items.append(StoreItem(f"a/{index}", signal, mask, 100.0))
    return items


def test_items_come_back_within_half_a_count(tmp_path):
    items = _items()
    assert write_store(tmp_path, items, spec_hash="abc") == 3
    store = Store(tmp_path, verify=True)
    assert store.record_ids == ("a/0", "a/1", "a/2") and store.spec_hash == "abc" and store.samples(1) == 37
    for before, after in zip(items, store):
        np.testing.assert_array_equal(after.mask, before.mask)
        assert not after.signal[~after.mask].any() and after.rate == 100.0
        half = (
            np.abs(np.where(before.mask, before.signal, 0)).max(1, keepdims=True) / 64_000 * 1.01
        )  # float32 adds 0.4 %
        assert (
            np.abs(after.signal - before.signal)[after.mask] <= np.broadcast_to(half, after.mask.shape)[after.mask]
        ).all()
    part = store.window(2, 100, 250)
    np.testing.assert_array_equal(part.signal, store[2].signal[:, 100:250])


def test_equal_items_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_store(tmp_path / name, _items())
    for name in ("counts.bin", "index.parquet", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_damaged_store_is_refused(tmp_path):
    write_store(tmp_path, _items())
    path = tmp_path / "counts.bin"
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(ReadError, match="SHA-256"):
        Store(tmp_path, verify=True)
    path.write_bytes(data[:-2])
    with pytest.raises(ReadError, match="6,146 bytes; the index needs 6,148"):
        Store(tmp_path)
    path.write_bytes(data)
    index = (tmp_path / "index.parquet").read_bytes()
    for bad in (b"", b"no table", index[:100]):
        (tmp_path / "index.parquet").write_bytes(bad)
        with pytest.raises(ReadError, match=r"index.parquet: index is damaged .*Build it again"):
            Store(tmp_path)


def test_an_unfinished_build_leaves_no_store(tmp_path):
    write_store(tmp_path, _items())

    def stops():
        yield from _items()[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path, stops())
    with pytest.raises(ReadError, match="whole store"):
        Store(tmp_path)


def test_unfit_items_are_refused(tmp_path):
    item = _items()[0]
    with pytest.raises(ShapeError, match="twice"):
        write_store(tmp_path, [item, item])
    bad = StoreItem("x", np.full((2, 5), np.nan, np.float32), np.ones((2, 5), bool), 100.0)
    with pytest.raises(ShapeError, match="not finite"):
        write_store(tmp_path, [bad])
