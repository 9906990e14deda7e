import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mura_hf.metrics import calibrate_studies, classification_metrics, fit_study_calibration, fit_temperature


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
        ([0.1, float("nan")], [0, 1], "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(values, labels)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        fit_study_calibration([0.1, 1.2], [0, 1])


def test_a_perfect_ranking_of_few_studies_gives_no_certainty():
    labels, margins = [0, 0, 1, 1], np.array([-0.2, -0.2, 0.2, 0.2])
    assert fit_temperature(margins, labels) > 0.1
    slope, intercept = fit_study_calibration(expit(margins), labels)
    # Platt's targets for two and two: 3/4 and 1/4.
    np.testing.assert_allclose(calibrate_studies(expit([0.2, -0.2]), slope, intercept), [0.75, 0.25], atol=1e-3)
