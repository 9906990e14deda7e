from collections import Counter

import pytest

from mura_hf.data import BalancedSampler, ClassesBySamples, TwinSampler


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


class TestClassesBySamples:
    CLASSES = [part for part in range(5) for _ in range(9)] + [5, 5]

    def test_every_batch_has_p_classes_and_k_rows_of_each(self):
        sampler = ClassesBySamples(self.CLASSES, 3, 4, seed=1)
        batches = list(sampler)
        assert len(batches) == len(sampler) == len(self.CLASSES) // 12
        for batch in batches:
            counts = Counter(self.CLASSES[row] for row in batch)
            assert len(counts) == 3
            assert set(counts.values()) == {4}
            assert all(len({row for row in batch if self.CLASSES[row] == one}) == 4 for one in counts if one != 5)

    def test_all_classes_come_before_one_comes_again(self):
        batches = list(ClassesBySamples(self.CLASSES, 3, 2, seed=5))
        first = {self.CLASSES[row] for batch in batches[:2] for row in batch}
        assert first == set(self.CLASSES)

    def test_batches_depend_on_seed_and_epoch_alone(self):
        first, again = (ClassesBySamples(self.CLASSES, 2, 3, seed=1) for _ in range(2))
        assert list(first) == list(again) != list(ClassesBySamples(self.CLASSES, 2, 3, seed=2))
        again.set_epoch(1)
        assert list(first) != list(again)

    @pytest.mark.parametrize(("classes", "samples"), [(7, 2), (1, 2), (2, 0)])
    def test_what_cannot_be_is_refused(self, classes, samples):
        with pytest.raises(ValueError, match="cannot be made of 6 classes"):
            ClassesBySamples(self.CLASSES, classes, samples)
