import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mura_hf.metrics import (
    calibrate_studies,
    classification_metrics,
    fit_study_calibration,
    fit_temperature,
    measure_calibration,
)


def _draw(n, scale, seed):
    """Logits of true probabilities, and labels drawn from these."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, scale, n)
    return margins, (rng.random(n) < expit(margins)).astype(int), rng


def test_temperature_undoes_overconfidence():
    margins, labels, _ = _draw(50_000, 2, 0)
    assert fit_temperature(3 * margins, labels) == pytest.approx(3.0, rel=0.02)


def test_a_shifted_prevalence_is_undone():
    margins, labels, rng = _draw(60_000, 1.5, 1)
    kept = (labels == 1) | (rng.random(len(margins)) < 0.25)  # a quarter of the normal ones: odds four times as high
    calib, valid = np.flatnonzero(kept)[::2], np.flatnonzero(kept)[1::2]
    slope, intercept = fit_study_calibration(expit(margins[calib]), labels[calib])
    assert slope == pytest.approx(1, abs=0.05)
    assert intercept == pytest.approx(np.log(4), abs=0.1)
    after = calibrate_studies(expit(margins[valid]), slope, intercept)
    assert classification_metrics(labels[valid], expit(margins[valid]))["ece"] > 0.1
    assert classification_metrics(labels[valid], after)["ece"] < 0.03
    assert fit_study_calibration(after, labels[valid])[1] == pytest.approx(0, abs=0.1)


def test_study_calibration_equals_logistic_regression_on_the_logit():
    margins, labels, _ = _draw(20_000, 1.5, 0)
    margins = 3 * margins + 0.7
    slope, intercept = fit_study_calibration(expit(margins), labels)
    reference = LogisticRegression(C=np.inf).fit(margins[:, None], labels)
    assert slope == pytest.approx(reference.coef_[0, 0], abs=2e-3)
    assert intercept == pytest.approx(reference.intercept_[0], abs=2e-3)
    assert calibrate_studies(expit(margins), slope, intercept).mean() == pytest.approx(labels.mean(), abs=1e-3)


def test_calibration_keeps_order_and_certainty():
    values = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    np.testing.assert_array_equal(calibrate_studies(values), values)
    changed = calibrate_studies(values, 0.4, -0.3)
    assert (np.diff(changed) > 0).all()
    assert (changed[0], changed[2], changed[-1]) == (0, pytest.approx(expit(-0.3)), 1)


@pytest.mark.parametrize("fit", [fit_temperature, fit_study_calibration])
def test_invalid_values_are_refused(fit):
    for values, labels, message in (
        ([0.1, 0.2], [0, 1, 1], "one label a value"),
        ([0.1, 0.2], [1, 1], "both normal and abnormal studies"),
        ([0.1, float("nan")], [0, 1], "finite|in \\[0, 1\\]"),
        ([0.9, 0.8, -0.2 if fit is fit_temperature else 0.2], [0, 0, 1], "normal studies have the higher prob"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(values, labels)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        fit_study_calibration([0.1, 1.2], [0, 1])


def test_a_perfect_ranking_of_few_studies_gives_no_certainty():
    labels, margins = [0, 0, 1, 1], np.array([-0.2, -0.2, 0.2, 0.2])
    assert fit_temperature(margins, labels) > 0.05
    slope, intercept = fit_study_calibration(expit(margins), labels)
    # Firth's penalty adds half a study to each cell of this table: 2.5 of 3.
    np.testing.assert_allclose(calibrate_studies(expit([0.2, -0.2]), slope, intercept), [5 / 6, 1 / 6], atol=1e-3)


def test_the_fit_of_few_studies_is_unbiased():
    slopes = []
    for seed in range(150):
        margins, labels, _ = _draw(40, 2, seed)
        if 3 < labels.sum() < 37:
            slopes.append(fit_study_calibration(expit(margins / 1.4), labels)[0])
    assert np.mean(slopes) == pytest.approx(1.4, abs=0.12)  # maximum likelihood: 1.6


def test_calibration_is_measured_with_intervals():
    margins, labels, _ = _draw(6000, 1.5, 3)
    groups = np.repeat(np.arange(3000), 2)
    found = measure_calibration(labels, expit(margins), groups)
    for name, ideal in (("slope", 1), ("intercept", 0), ("observed_expected", 1)):
        assert found[name]["low"] < ideal < found[name]["high"]
    assert found["debiased_error"] < 0.02
    changed = measure_calibration(labels, expit((margins - 0.4) / 1.3), groups)
    assert changed["slope"]["low"] < 1.3 < changed["slope"]["high"]
    assert changed["intercept"]["low"] > 0
    assert changed["observed_expected"]["low"] > 1
    assert changed["debiased_error"] > 0.04
    repeated = measure_calibration(*(np.tile(one, 3) for one in (labels, expit(margins), groups)))
    assert repeated["slope"] == pytest.approx(found["slope"], abs=1e-6)
    assert set(measure_calibration([0, 1], [0.1, 0.9], "ab").values()) == {None}
    perfect = measure_calibration(np.repeat([0, 1], 30), np.linspace(0.1, 0.9, 60), range(60))
    assert perfect["slope"] is None
    inverted = measure_calibration(np.repeat([1, 0], 30), np.linspace(0.1, 0.9, 60), range(60))
    assert inverted["slope"] is None
    assert measure_calibration(np.repeat([1, 0], 30), np.zeros(60), range(60))["observed_expected"] is None
    assert perfect["observed_expected"]["low"] < 1 < perfect["observed_expected"]["high"]
    for halves in (np.repeat([0, 1], 100), np.tile([0, 1], 100)):  # the order of studies does not matter
        assert measure_calibration(halves, np.full(200, 0.5), range(200))["debiased_error"] == 0
    owners = np.r_[np.zeros(15, int), np.arange(1, 46)]  # one patient has half of the abnormal studies
    few, many = (
        measure_calibration(np.repeat([1, 0], 30), np.linspace(0.9, 0.2, 60), by) for by in (owners, range(60))
    )
    assert few["intercept"]["high"] - few["intercept"]["low"] > many["intercept"]["high"] - many["intercept"]["low"]
