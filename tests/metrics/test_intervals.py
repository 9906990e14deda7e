from itertools import product

import numpy as np
import pytest
from interval_coverage import (
    measure_calibration_coverage,
    measure_comparisons,
    measure_guarantees,
    measure_intervals,
    measure_means,
)
from scipy.stats import binomtest, norm, t

from mura_hf.metrics import (
    classification_metrics,
    confidence_intervals,
    mean_interval,
    mean_with_interval,
    paired_comparison,
    rate_interval,
    share_interval,
)
from mura_hf.metrics.classification import FIGURES
from mura_hf.metrics.intervals import _exchange_patients, sign_flip_test

RNG = np.random.default_rng(2)
LABELS = RNG.integers(0, 2, 400)
PROBABILITIES = np.round(np.clip(0.4 * LABELS + RNG.random(400) * 0.6, 0, 1), 2)  # with ties
OTHERS = np.round(np.clip(0.2 * LABELS + RNG.random(400) * 0.8, 0, 1), 2)  # worse
PATIENTS = np.repeat(np.arange(200), 2)


def test_independent_studies_have_wilsons_interval_and_the_variance_of_delong():
    found = confidence_intervals(LABELS, PROBABILITIES, np.arange(400))
    assert list(found) == [name for name in FIGURES if name != "ece"]
    figures = classification_metrics(LABELS, PROBABILITIES)
    assert all(low < figures[name] < high for name, (low, high) in found.items())
    for name, counted in (("accuracy", LABELS >= 0), ("sensitivity", LABELS == 1), ("specificity", LABELS == 0)):
        wilson = binomtest(round(figures[name] * counted.sum()), int(counted.sum())).proportion_ci(method="wilson")
        assert found[name] == pytest.approx((wilson.low, wilson.high), abs=0.003)  # Student's t is a little wider
    abnormal, normal = PROBABILITIES[LABELS == 1], PROBABILITIES[LABELS == 0]
    wins = (abnormal[:, None] > normal) + 0.5 * (abnormal[:, None] == normal)
    auroc = wins.mean()
    error = np.sqrt(wins.mean(1).var(ddof=1) / len(abnormal) + wins.mean(0).var(ddof=1) / len(normal))
    half = norm.ppf(0.975) * error / (auroc * (1 - auroc))
    expected = [1 / (1 + (1 - auroc) / auroc * np.exp(sign * half)) for sign in (1, -1)]
    assert found["auroc"] == pytest.approx(expected, abs=0.003)
    narrow = confidence_intervals(LABELS, PROBABILITIES, np.arange(400), level=0.5)
    assert all(narrow[name][0] > low and narrow[name][1] < high for name, (low, high) in found.items())


def test_repeated_studies_of_a_patient_add_no_certainty():
    alone = confidence_intervals(LABELS, PROBABILITIES, np.arange(400))
    repeated = confidence_intervals(*(np.tile(one, 5) for one in (LABELS, PROBABILITIES, np.arange(400))))
    for name, pair in alone.items():
        assert repeated[name] == pytest.approx(pair, abs=1e-3)
    share = rate_interval(np.ones(400, bool), np.ones(400, bool), PATIENTS)  # no variance: two studies count as one
    assert share == pytest.approx(rate_interval(np.ones(200, bool), np.ones(200, bool), np.arange(200)))
    assert mean_interval(np.tile(PROBABILITIES, 5), np.tile(np.arange(400), 5)) == pytest.approx(
        mean_interval(PROBABILITIES, np.arange(400)), abs=1e-3
    )


def test_too_few_patients_or_studies_give_no_interval():
    few = slice(0, 38)
    assert confidence_intervals(LABELS[few], PROBABILITIES[few], PATIENTS[few]) == {}
    assert mean_interval(PROBABILITIES[few], PATIENTS[few]) is rate_interval(LABELS == 1, LABELS >= 0, LABELS) is None
    assert mean_with_interval([0.5, 0.7], "ab") == {"mean": pytest.approx(0.6), "low": None, "high": None}
    rare = np.arange(60) < 9
    found = confidence_intervals(rare.astype(int), np.linspace(1, 0, 60), np.arange(60), 0.9)
    assert set(found) == {"accuracy", "specificity"}  # nine abnormal studies, and few called abnormal
    assert rate_interval(rare, rare, np.arange(60)) is None
    ten = np.arange(60) < 10
    found = confidence_intervals(ten.astype(int), np.linspace(1, 0, 60), np.arange(60), 0.9)
    assert found["auroc"] == (pytest.approx(10 / (10 + 2.262**2), abs=1e-3), 1.0)  # perfect ranking of ten
    five_of_one = np.r_[np.zeros(5, int), np.arange(1, 56)]  # an effective number of 100 / 30 patients
    bound = confidence_intervals(ten.astype(int), np.linspace(1, 0, 60), five_of_one, 0.9)["auroc"][0]
    assert bound == pytest.approx(10 / 3 / (10 / 3 + t.ppf(0.975, 7 / 3) ** 2))
    assert "kappa" not in found  # too few are called abnormal
    assert all(0 <= low <= high <= 1 for low, high in found.values())
    one_has_all = np.r_[np.zeros(10, int), np.arange(1, 51)]  # nothing shows how abnormal patients differ
    assert {"auroc", "auprc", "kappa"}.isdisjoint(
        confidence_intervals(ten.astype(int), np.linspace(1, 0, 60) ** 3, one_has_all, 0.5)
    )
    certain = np.where(ten, 0.99, 0.01)
    certain[0] = 0.1  # one patient has nearly all of the score: as wide as a proportion
    high = confidence_intervals(ten.astype(int), certain, np.arange(60))["brier"][1]
    assert high == pytest.approx(share_interval(np.mean((certain - ten) ** 2), 1e-6, np.ones(60), degrees=9)[1])


def test_no_interval_has_a_width_of_zero():
    labels, patients = np.tile([0, 1], 40), np.arange(80)
    for right in (True, False):
        found = confidence_intervals(labels, np.where((labels == 1) == right, 0.9, 0.1), patients)
        assert set(found) >= {"sensitivity", "auroc", "auprc", "kappa", "brier"}
        assert all(high - low > 0.01 for low, high in found.values())
        wrong = 1 - found["accuracy"][0] if right else found["accuracy"][1]
        expected = (1 - 2 * wrong, 1.0) if right else (-1.0, 2 * wrong - 1)  # kappa of equal classes
        assert found["kappa"] == pytest.approx(expected)
    assert "auroc" not in confidence_intervals(labels, np.full(80, 0.7), patients)  # .5 by definition
    wrong = 1 - mean_interval(np.ones(80, bool), patients)[0]
    assert mean_interval(np.full(80, 0.4), patients) == pytest.approx((0.4 - wrong, 0.4 + wrong))
    assert mean_interval(np.zeros(80), patients) == pytest.approx((-wrong, wrong))
    assert mean_interval(np.zeros(80), patients, least=0) == pytest.approx((0, wrong))
    assert mean_interval(np.full(80, 0.01), patients, least=0)[0] == 0
    assert mean_interval(np.full(80, -0.99), patients)[0] == -1
    changed = np.repeat([1.0, -1.0, 0.0], (4, 1, 75))  # changed decisions: the difference of two shares
    (low, high), (least, most) = (mean_interval(changed == sign, patients) for sign in (1, -1))
    expected = 3 / 80 - np.hypot(4 / 80 - low, most - 1 / 80), 3 / 80 + np.hypot(high - 4 / 80, 1 / 80 - least)
    assert mean_interval(changed, patients) == pytest.approx(expected)


def test_runs_add_the_variance_between_them():
    one = confidence_intervals(LABELS, PROBABILITIES, PATIENTS)["auroc"]
    same = confidence_intervals(LABELS, [PROBABILITIES] * 3, PATIENTS)["auroc"]
    assert same == pytest.approx(one)
    both = confidence_intervals(LABELS, [PROBABILITIES, OTHERS], PATIENTS)["auroc"]
    middle = np.mean([classification_metrics(LABELS, run)["auroc"] for run in (PROBABILITIES, OTHERS)])
    assert both[0] < middle < both[1]
    assert both[1] - both[0] > 2 * (one[1] - one[0])
    compared = paired_comparison(LABELS, [PROBABILITIES, OTHERS], OTHERS, PATIENTS)["auroc"]
    single = paired_comparison(LABELS, PROBABILITIES, OTHERS, PATIENTS)["auroc"]
    assert compared["difference"] == pytest.approx(single["difference"] / 2)
    assert compared["p_value"] > 0.05 > single["p_value"]
    assert compared["low"] < 0 < single["low"]
    truth, four = np.tile([0, 1], 4), np.repeat(np.arange(4), 2)
    certain = paired_comparison(truth, [truth * 0.8 + 0.1] * 2, [0.9 - truth * 0.8] * 2, four)
    assert certain["accuracy"]["p_value"] == 0.125  # four patients in favour, as in the sign flip test
    twenty = np.repeat(np.arange(20), 10)
    rare = (twenty < 2).astype(int)  # only two patients can change the sensitivity
    worse = np.full((3, 200), 0.1)
    worse[[0, 1, 2], [0, 10, 1]] = 0.9
    few = paired_comparison(rare, [rare * 0.8 + 0.1] * 3, worse, twenty)["sensitivity"]
    assert (few["difference"], few["p_value"], few["high"]) == (pytest.approx(0.95), 0.5, 1)


def test_sign_flips_equal_their_enumeration():
    values = RNG.normal(0.4, 1, (8, 3))
    sums = np.abs([np.asarray(signs) @ values for signs in product((1, -1), repeat=8)])
    expected = (sums >= np.abs(values.sum(0)) - 1e-12).mean(0)
    np.testing.assert_allclose(sign_flip_test(values), expected)
    padded = np.vstack([values, np.zeros((8, 3))])  # more than twelve: drawn at random
    np.testing.assert_allclose(sign_flip_test(padded), expected, atol=0.02)
    assert sign_flip_test(np.ones((4, 1))) == pytest.approx(0.125)  # four patients in favour: 2 of 16


def test_exchanged_patients_equal_exchanged_predictions():
    patients, truth = np.repeat(np.arange(8), 5), LABELS[:40] == 1
    a, b = (RNG.permutation(40) / 40 + 0.01 for _ in range(2))
    exchanged = _exchange_patients(truth, [a, b], [0.3, 0.3], patients, 8)
    for patient in range(8):
        chosen = patients == patient
        pair = [classification_metrics(truth, np.where(chosen, *two), 0.3) for two in ((b, a), (a, b))]
        for name in exchanged.keys() - {"ece"}:
            assert exchanged[name][patient] == pytest.approx(pair[0][name] - pair[1][name]), name
    observed = classification_metrics(truth, a)["auroc"] - classification_metrics(truth, b)["auroc"]
    exact = sign_flip_test((observed - exchanged["auroc"])[:, None] / 2)[0]
    found = [paired_comparison(truth, a, values, patients)["auroc"] for values in (b, (b / 2) ** 3)]
    assert found[0] == found[1]  # another scale is no difference
    assert found[0]["p_value"] >= exact


def test_comparisons_are_symmetric_and_adjusted_by_holm():
    found = paired_comparison(LABELS, PROBABILITIES, OTHERS, PATIENTS)
    mirrored = paired_comparison(LABELS, OTHERS, PROBABILITIES, PATIENTS)
    for name, row in found.items():
        other = mirrored[name]
        expected = (-other["difference"], -other["high"], -other["low"], other["p_value"])
        assert (row["difference"], row["low"], row["high"], row["p_value"]) == pytest.approx(expected, abs=1e-9)
        a, b = (classification_metrics(LABELS, values)[name] for values in (PROBABILITIES, OTHERS))
        assert row["difference"] == pytest.approx(a - b)
    assert found["auroc"]["adjusted_p_value"] == found["auroc"]["p_value"]
    others = sorted((row["p_value"], row["adjusted_p_value"]) for name, row in found.items() if name != "auroc")
    running = np.maximum.accumulate([(len(others) - rank) * p for rank, (p, _) in enumerate(others)])
    assert [adjusted for _, adjusted in others] == pytest.approx(np.minimum(running, 1).tolist())
    for row in paired_comparison(LABELS, OTHERS, OTHERS, PATIENTS).values():
        assert row["low"] == -row["high"] < 0.0 < row["high"]  # no patient differs: as wide as a proportion of none
        assert {row[name] for name in ("p_value", "adjusted_p_value")} == {1}
    single = paired_comparison([0, 0, 1], [0.1, 0.6, 0.9], [0.1, 0.2, 0.3], "abc")  # undefined without the last
    assert single["specificity"]["p_value"] >= 0.25  # the least with three patients
    assert single["sensitivity"] == {"difference": 1, **dict.fromkeys(("low", "high", "p_value", "adjusted_p_value"))}
    few = paired_comparison(LABELS[:20], PROBABILITIES[:20], OTHERS[:20], PATIENTS[:20])["brier"]
    assert few["low"] is few["high"] is None
    assert few["p_value"] >= 2 / 2**10
    at = paired_comparison(LABELS, PROBABILITIES, OTHERS, PATIENTS, (0.3, 0.7))["sensitivity"]["difference"]
    one, other = classification_metrics(LABELS, PROBABILITIES, 0.3), classification_metrics(LABELS, OTHERS, 0.7)
    assert at == pytest.approx(one["sensitivity"] - other["sensitivity"])


def test_mismatches_are_refused():
    with pytest.raises(ValueError, match="same length"):
        confidence_intervals([0, 1], [0.5, 0.5], ["a"])
    with pytest.raises(ValueError, match="same length"):
        mean_interval([0.5], [])
    for values, least in (([np.nan, 0.5], -1), ([1.5, 0.5], -1), ([-0.5, 0.5], 0)):
        with pytest.raises(ValueError, match=f"must lie in \\[{least}, 1\\]"):
            mean_interval(values, "ab", least=least)
    with pytest.raises(ValueError, match="2 labels, 2 and 1 probabilities"):
        paired_comparison([0, 1], [0.1, 0.7], [0.6], ["a", "b"])


@pytest.mark.slow
def test_what_the_benchmark_measures_holds():
    """With few simulations, so the bounds are wide; the benchmark itself has the figures."""
    settings = measure_intervals(20, (10, 50), true_studies=20_000)["by_patients"]
    assert settings["10"] == "none"
    for name, (low, high) in settings["50"].items():
        assert 0.8 <= low <= high <= 1, name
    compared = measure_comparisons(40, (20,))
    for kind in compared.keys() - {"simulations", "power"}:
        assert all(row["auroc"] <= 0.15 for row in compared[kind].values() if "auroc" in row), kind
    found = measure_guarantees(40, (31, 60))
    assert found["31"]["sensitivity_95"] == {"given": 0}
    assert found["60"]["sensitivity_95"]["broken"] <= 0.2
    for row in found["31"], found["60"]:
        assert row["sensitivity_85"]["given"] == row["uncertain"]["given"] == 1
        assert max(row["sensitivity_85"]["broken"], row["uncertain"]["broken"]) <= 0.2
    calibration = measure_calibration_coverage(40, (50,), true_patients=10_000)["50 patients, 1 to 5 studies"]
    assert min(row["coverage"] for row in calibration.values()) >= 0.85
    means = measure_means(40, (50,))["50 patients, 1 to 20 studies"]
    assert min(row["coverage"] for row in means.values()) >= 0.85
