import numpy as np
import pytest

from mura_hf.data import split_digest, split_patients, split_patients_evenly


def test_cut_depends_on_patients_and_seed_alone():
    patients = [f"patient{number:05d}" for number in range(400)]
    fractions = {"dev": 0.1, "calib": 0.05}
    cut = split_patients(patients, fractions, seed=3)
    assert cut == split_patients(patients[::-1] * 2, fractions, seed=3)
    assert cut != split_patients(patients, fractions, seed=4)
    counts = {name: list(cut.values()).count(name) for name in ("train", "dev", "calib")}
    assert counts == {"train": 340, "dev": 40, "calib": 20}
    with pytest.raises(ValueError, match="less than 1"):
        split_patients(patients, {"dev": 0.6, "calib": 0.4})


def test_too_few_patients_are_said_to_be():
    with pytest.raises(ValueError, match="2 patients cannot be split"):
        split_patients(["a", "b"], {"dev": 0.49, "calib": 0.49})


def test_digest_knows_members_not_their_order():
    pairs = [("train", "a"), ("dev", "b")]
    assert split_digest(pairs) == split_digest(pairs[::-1] * 2)
    assert split_digest(pairs) != split_digest([("train", "b"), ("dev", "a")])


class TestEvenly:
    RNG = np.random.default_rng(5)
    PATIENTS = [f"p{number}" for number in RNG.integers(0, 700, 1000)]
    STRATA = [f"{part} {label}" for part, label in zip(RNG.integers(0, 5, 1000), RNG.random(1000) < 0.4, strict=True)]
    SIZES = RNG.integers(1, 5, 1000).tolist()

    def _cut(self, order=slice(None), **options):
        columns = (self.PATIENTS[order], self.STRATA[order], self.SIZES[order])
        return split_patients_evenly(*columns, {"dev": 0.1, "calib": 0.1}, **options)

    def test_every_stratum_has_its_share_in_every_split(self):
        cut = self._cut(seed=1)
        places = np.array([cut[patient] for patient in self.PATIENTS])
        for split, share in (("train", 0.8), ("dev", 0.1), ("calib", 0.1)):
            for stratum in set(self.STRATA):
                inside = np.array(self.STRATA) == stratum
                assert (places[inside] == split).mean() == pytest.approx(share, abs=0.03)
            assert np.mean([place == split for place in cut.values()]) == pytest.approx(share, abs=0.01)

    def test_depends_on_who_brings_what_and_the_seed_alone(self):
        assert self._cut(seed=1) == self._cut(slice(None, None, -1), seed=1)
        assert self._cut(seed=1) != self._cut(seed=2)

    def test_too_few_patients_are_said_to_be(self):
        with pytest.raises(ValueError, match="2 patients cannot be split"):
            split_patients_evenly(["a", "b"], ["x", "x"], [1, 1], {"dev": 0.1, "calib": 0.1})

    def test_a_small_set_has_someone_in_every_split(self):
        cut = split_patients_evenly(list("abcd"), ["x"] * 4, [1] * 4, {"dev": 0.01, "calib": 0.01})
        assert sorted(cut.values()) == ["calib", "dev", "train", "train"]
