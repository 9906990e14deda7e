from collections import Counter

import pytest

from mura_hf.data import BalancedSampler, GroupSampler, PerClassSampler


def test_every_row_once_and_groups_side_by_side():
    keys = [0, 1, 0, 3, 1, 5, 6, 7]
    sampler = GroupSampler(keys, len(keys), seed=4)
    order = list(sampler)
    assert sorted(order) == list(range(8))
    assert len(sampler) == 8
    for a, b in ((0, 2), (1, 4)):
        assert abs(order.index(a) - order.index(b)) == 1


def test_order_depends_on_seed_and_epoch_alone():
    first, again, other = (GroupSampler(None, 50, seed) for seed in (1, 1, 2))
    assert list(first) == list(again) != list(other)
    again.set_epoch(3)
    assert list(first) != list(again)
    first.set_epoch(3)
    assert list(first) == list(again)


class TestBalanced:
    CLASSES = ["rare"] * 7 + ["common"] * 43

    def test_as_many_of_each_class_and_every_row_as_often(self):
        order = list(BalancedSampler(self.CLASSES, seed=3))
        assert len(order) == len(BalancedSampler(self.CLASSES)) == 50
        assert sum(row < 7 for row in order) == 25
        times = Counter(order)
        assert {times[row] for row in range(7)} == {3, 4}
        assert {times[row] for row in range(7, 50)} <= {0, 1}
        assert {row < 7 for row in order[:8]} == {True, False}  # mixed, not one class after the other

    def test_order_depends_on_seed_and_epoch_alone(self):
        first, again = BalancedSampler(self.CLASSES, 1), BalancedSampler(self.CLASSES, 1)
        assert list(first) == list(again) != list(BalancedSampler(self.CLASSES, 2))
        again.set_epoch(1)
        assert list(first) != list(again)

    def test_no_rows_are_refused(self):
        with pytest.raises(ValueError, match="no rows"):
            BalancedSampler([])


class TestPerClass:
    CLASSES = [part for part in range(5) for _ in range(9)] + [5, 5]

    def _batches(self, n_classes, n_samples, seed=1, epoch=0):
        sampler = PerClassSampler(self.CLASSES, n_classes, n_samples, seed=seed)
        sampler.set_epoch(epoch)
        order, size = list(sampler), n_classes * n_samples
        assert len(order) == len(sampler)
        return [order[start : start + size] for start in range(0, len(order), size)]

    def test_every_batch_has_p_classes_and_k_rows_of_each(self):
        batches = self._batches(3, 4)
        assert len(batches) == len(self.CLASSES) // 12
        for batch in batches:
            counts = Counter(self.CLASSES[row] for row in batch)
            assert len(counts) == 3
            assert set(counts.values()) == {4}
            assert all(len({row for row in batch if self.CLASSES[row] == one}) == 4 for one in counts if one != 5)

    def test_all_classes_come_before_one_is_repeated(self):
        first = {self.CLASSES[row] for batch in self._batches(3, 2, seed=5)[:2] for row in batch}
        assert first == set(self.CLASSES)

    def test_order_depends_on_seed_and_epoch_alone(self):
        assert self._batches(2, 3) == self._batches(2, 3)
        assert self._batches(2, 3) != self._batches(2, 3, seed=2)
        assert self._batches(2, 3) != self._batches(2, 3, epoch=1)

    @pytest.mark.parametrize(("classes", "samples"), [(7, 2), (1, 2), (2, 0)])
    def test_impossible_batches_are_refused(self, classes, samples):
        with pytest.raises(ValueError, match="cannot be made of 6 classes"):
            PerClassSampler(self.CLASSES, classes, samples)
