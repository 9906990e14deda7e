import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from mura_hf.errors import CheckpointError, DatasetError
from mura_hf.retrieval import FALSE_ALARM_RATE, OOD_FILE, OODDetector

D = 12


def _draw(rng, n, middle):
    """Codes as networks have them: not negative, skewed, correlated."""
    mix = np.random.default_rng(5).normal(size=(D, D)) / 3
    return np.exp(middle + rng.normal(size=(n, D)) @ mix).astype(np.float32)


@pytest.fixture(scope="module")
def detector():
    rng = np.random.default_rng(0)
    arms, hands, legs = (_draw(rng, 600, middle) for middle in (0.0, 0.8, -2.5))
    calib = np.concatenate([_draw(rng, 150, 0.0), _draw(rng, 150, 0.8)])
    groups = ["arm"] * 600 + ["hand"] * 600 + ["leg"] * 600
    return OODDetector.fit(np.concatenate([arms, hands, legs]), groups, ["leg"], calib, "abc")


def test_scores_are_squared_mahalanobis_distances_to_the_nearest_group():
    rng = np.random.default_rng(1)
    codes = _draw(rng, 4000, 0.0)
    groups = ["a" if code[0] > 1 else "b" for code in codes]
    detector = OODDetector.fit(codes, groups, [], codes[:90], "abc")
    soft = np.arcsinh(codes.astype(float) / detector.scales)
    names = np.asarray(groups)
    means = {name: soft[names == name].mean(0) for name in "ab"}
    rest = np.concatenate([soft[names == name] - means[name] for name in "ab"])
    deviations = rest.std(0)
    shrunk = LedoitWolf(assume_centered=True).fit(rest / deviations).precision_
    precision = shrunk / np.outer(deviations, deviations)
    expected = [min(mahalanobis(one, means[name], precision) ** 2 for name in "ab") for one in soft[:50]]
    found = detector.score(codes[:50])
    assert found.shape == (50, 1)
    np.testing.assert_allclose(found[:, 0], expected, rtol=2e-3)


def test_studies_out_of_distribution_are_detected(detector):
    rng = np.random.default_rng(2)
    for n_views in (1, 2, 4):  # more views raise the threshold, and not the false alarm rate
        alike = [detector.detect(_draw(rng, n_views, (0.0, 0.8)[n % 2])) for n in range(600)]
        assert np.mean([not one.in_distribution for one in alike]) < 2 * FALSE_ALARM_RATE
        shares = np.asarray([one.percentile for one in alike])
        assert 40 < np.median(shares) < 60
        assert 0.02 < (shares > 95).mean() < 0.09
        assert 0 <= shares.min() <= shares.max() <= 100
    assert (np.diff([detector.thresholds(n) for n in (1, 2, 5)], axis=0) >= 0).all()
    legs = _draw(rng, 200, -2.5)
    assert np.mean([detector.detect(leg[None]).in_distribution for leg in legs]) < 0.05
    assert (detector.score(legs)[:, 1] > detector.thresholds()[1]).mean() > 0.95  # although they are not far
    far = detector.detect(rng.uniform(0, 30, (1, D)))
    assert not far.in_distribution
    assert far.percentile == 100
    # One view decides for the study.
    fine = _draw(np.random.default_rng(4), 1, 0.4)
    result = detector.detect(np.concatenate([fine, np.full((1, D), 40.0, np.float32)]))
    assert result.views == [True, False]
    assert not result.in_distribution
    # Beside others, a view may be more unusual; it is named, and the study is not made of such views alone.
    draws = _draw(np.random.default_rng(5), 4000, 0.4)
    scores, alone, together = detector.score(draws), detector.thresholds(), detector.thresholds(2)
    between = draws[(scores > alone).any(1) & (scores <= together).all(1)]
    mixed, both = (detector.detect(np.concatenate([one, between[:1]])) for one in (fine, between[1:2]))
    assert (mixed.in_distribution, mixed.views) == (True, [True, False])
    assert (both.in_distribution, both.views) == (False, [False, False])


def test_thresholds_leave_the_share_of_alarms_that_conformal_prediction_promises():
    rng = np.random.default_rng(6)
    alarms = []
    for _ in range(200):
        scores = np.sort(rng.normal(size=(99, 1)), axis=0).astype(np.float32)
        one = OODDetector(np.ones(1), np.ones((1, 1)), np.zeros((1, 1)), np.ones(1, bool), scores, "")
        alarms.append((rng.normal(size=500) > one.thresholds()[0]).mean())
    assert 0.8 * FALSE_ALARM_RATE < np.mean(alarms) < 1.05 * FALSE_ALARM_RATE


def test_small_groups_are_merged_and_wide_codes_are_cut_to_their_main_directions():
    rng = np.random.default_rng(8)
    codes = np.exp(rng.normal(size=(700, 600)))
    groups = [f"part{n}" if n < 25 else "rest" for n in range(700)]
    detector = OODDetector.fit(codes, groups, [], codes[:60], "abc")
    assert detector.means.shape == (2, 512)
    assert detector.whitening.shape == (600, 512)


def test_no_mean_is_that_of_a_few_views():
    rng = np.random.default_rng(11)
    codes = _draw(rng, 330, 0.0)
    codes[-3:] *= 7
    groups = ["wrist"] * 300 + ["hand"] * 27 + ["elbow", "finger", "leg"]
    detector = OODDetector.fit(codes, groups, ["leg"], codes[:60], "abc")
    assert detector.means.shape == (2, D)
    assert detector.inside.all()
    few = np.arcsinh(codes[-3:] / detector.scales) @ detector.whitening
    assert all(np.abs(detector.means - one).max() > 0.5 for one in few)


def test_save_and_load_give_the_same(detector, tmp_path):
    detector.save(tmp_path)
    again = OODDetector.load(tmp_path / OOD_FILE, "abc")
    codes = _draw(np.random.default_rng(9), 20, 0.0)
    np.testing.assert_array_equal(again.score(codes), detector.score(codes))
    assert [path.name for path in tmp_path.iterdir()] == [OOD_FILE]
    with pytest.raises(CheckpointError, match="other weights"):
        OODDetector.load(tmp_path / OOD_FILE, "abd")


def test_a_damaged_file_is_reported_by_name(detector, tmp_path):
    detector.save(tmp_path)
    file = tmp_path / OOD_FILE
    tensors = load_file(file)
    for name, changed in (
        ("means", None),
        ("codes", np.zeros((9, 9), np.float32)),
        ("scales", tensors["scales"][1:]),
        ("calib", np.full_like(tensors["calib"], np.nan)),
        ("torn", None),
    ):
        damaged = {**tensors, name: changed}
        save_file({key: value for key, value in damaged.items() if value is not None}, file, {"weights": "abc"})
        if name == "torn":
            file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(CheckpointError, match=f"{OOD_FILE} cannot be read"):
            OODDetector.load(file, "abc")


def test_too_few_views_are_refused():
    codes = np.ones((90, D))
    with pytest.raises(DatasetError, match="calib has 59 views"):
        OODDetector.fit(codes, ["a"] * 90, [], codes[:59], "abc")
    with pytest.raises(DatasetError, match="train has 0 views of what the checkpoint is for"):
        OODDetector.fit(codes, ["leg"] * 90, ["leg"], codes, "abc")
