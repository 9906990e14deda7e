from mura_hf.data import TwinSampler


def test_every_row_once_and_twins_side_by_side():
    keys = [0, 1, 0, 3, 1, 5, 6, 7]
    sampler = TwinSampler(keys, len(keys), seed=4)
    order = list(sampler)
    assert sorted(order) == list(range(8))
    assert len(sampler) == 8
    for a, b in ((0, 2), (1, 4)):
        assert abs(order.index(a) - order.index(b)) == 1


def test_order_depends_on_seed_and_epoch_alone():
    first, again, other = (TwinSampler(None, 50, seed) for seed in (1, 1, 2))
    assert list(first) == list(again) != list(other)
    again.set_epoch(3)
    assert list(first) != list(again)
    first.set_epoch(3)
    assert list(first) == list(again)
