import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mura_hf.metrics import calibrate_studies, classification_metrics, fit_study_calibration, fit_temperature


@pytest.fixture(scope="module")
def overconfident():
    """Margins three times what they should be, and labels drawn from the true probabilities."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, 20_000)
    return 3.0 * honest, (rng.random(20_000) < expit(honest)).astype(int)


def test_temperature_finds_how_overconfident_a_model_is():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 50_000)
    labels = (rng.random(50_000) < expit(honest)).astype(int)
    assert fit_temperature(3 * honest, labels) == pytest.approx(3.0, rel=0.02)


def test_a_shifted_prevalence_is_undone():
    rng = np.random.default_rng(1)
    honest = rng.normal(0, 1.5, 60_000)
    labels = (rng.random(len(honest)) < expit(honest)).astype(int)
    kept = (labels == 1) | (rng.random(len(honest)) < 0.25)  # of the normal ones a quarter: odds four times as high
    calib, valid = np.flatnonzero(kept)[::2], np.flatnonzero(kept)[1::2]
    slope, intercept = fit_study_calibration(expit(honest[calib]), labels[calib])
    assert slope == pytest.approx(1, abs=0.05)
    assert intercept == pytest.approx(np.log(4), abs=0.1)
    after = calibrate_studies(expit(honest[valid]), slope, intercept)
    assert classification_metrics(labels[valid], expit(honest[valid]))["ece"] > 0.1
    assert classification_metrics(labels[valid], after)["ece"] < 0.03
    again = fit_study_calibration(after, labels[valid])
    assert again[1] == pytest.approx(0, abs=0.1)


def test_study_calibration_is_logistic_regression_on_the_logit(overconfident):
    margins, labels = overconfident
    slope, intercept = fit_study_calibration(expit(margins + 0.7), labels)
    reference = LogisticRegression(C=np.inf).fit((margins + 0.7)[:, None], labels)
    assert slope == pytest.approx(reference.coef_[0, 0], abs=2e-3)
    assert intercept == pytest.approx(reference.intercept_[0], abs=2e-3)
    after = calibrate_studies(expit(margins + 0.7), slope, intercept)
    assert after.mean() == pytest.approx(labels.mean(), abs=1e-3)


def test_calibration_keeps_order_and_certainty():
    values = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    np.testing.assert_array_equal(calibrate_studies(values), values)
    changed = calibrate_studies(values, 0.4, -0.3)
    assert (np.diff(changed) > 0).all()
    assert changed[0] == 0
    assert changed[-1] == 1
    assert changed[2] == pytest.approx(expit(-0.3))


@pytest.mark.parametrize("fit", [fit_temperature, fit_study_calibration])
def test_what_cannot_be_fitted_is_refused(fit):
    with pytest.raises(ValueError, match="one label a value"):
        fit([0.1, 0.2], [0, 1, 1])
    with pytest.raises(ValueError, match="normal studies and abnormal"):
        fit([0.1, 0.2], [1, 1])
    with pytest.raises(ValueError, match="finite"):
        fit([0.1, float("nan")], [0, 1])


def test_probabilities_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        fit_study_calibration([0.1, 1.2], [0, 1])


def test_few_studies_that_are_ranked_perfectly_do_not_call_for_certainty():
    labels, margins = [0, 0, 1, 1], np.array([-0.2, -0.2, 0.2, 0.2])
    assert fit_temperature(margins, labels) > 0.1
    slope, intercept = fit_study_calibration(expit(margins), labels)
    # Platt's targets for two and two: 3/4 and 1/4.
    np.testing.assert_allclose(calibrate_studies(expit([0.2, -0.2]), slope, intercept), [0.75, 0.25], atol=1e-3)
