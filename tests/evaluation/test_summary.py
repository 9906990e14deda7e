import json

import pytest

from mura_hf.common import BUNDLED
from mura_hf.evaluation import describe_evaluation, describe_verdict
from mura_hf.evaluation.summary import FORMER_NAMES, with_old_names


@pytest.mark.parametrize("name", BUNDLED)
def test_evaluations_of_the_first_edition_are_described(name):
    report = json.loads((BUNDLED[name] / "evaluation.json").read_text())
    former = {key: value for key, value in report.items() if key not in FORMER_NAMES}
    both = with_old_names(former)
    for key, old in FORMER_NAMES.items():
        assert both.get(key) == both.get(old) == former.get(old)
    assert with_old_names(both) == both
    lines = "\n".join(describe_evaluation(former))
    for words in ("auroc", "Out of distribution: flags", "Bands (low up to "):
        assert words in lines
    assert ("synthetic" in lines) == (name == "mura-phantom")


def report(auroc, n=40, low=0.3, high=0.9, **more):
    overall = {"figures": {"n": n, "n_abnormal": n // 2, "auroc": auroc}, "intervals": {}, "n_patients": n}
    if low is not None:
        overall["intervals"]["auroc"] = [low, high]
    return {"study": {"overall": overall}, **more}


def compared(difference, low, high, p_value=None, **more):
    row = {"difference": difference, "low": low, "high": high, "p_value": p_value}
    return {"checkpoint": "me/base", "is_start": True, "auroc": 0.7, "study": {"auroc": row}, **more}


TOO_FEW = "too few: 12 studies of 12 patients, 6 abnormal; each class needs 10 studies of 10 patients"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (report(0.8, comparison=compared(0.1, 0.02, 0.2)), "Better than its start, me/base, on 40 held-out studies: "
         "AUROC 0.800 instead of 0.700, a difference of +0.100 (95 % interval +0.020 to +0.200)."),
        (report(0.7, against=compared(0.0, -0.1, 0.1)), "Not shown to be better than its start, me/base, on 40"),
        (report(0.6, comparison=compared(-0.1, -0.2, -0.01)), "Worse than its start, me/base"),
        (report(0.7, comparison=compared(0.1, 0, 0.2, known=3)), "Its start was trained on 3 of these patients."),
        (report(0.8, 12, comparison=compared(0.1, 0.02, 0.2), too_few=TOO_FEW), "Too few studies to tell whether it "
         "is better than its start, me/base: 12 studies of 12 patients, 6 abnormal; each class needs 10 studies of 10 "
         "patients. Here: AUROC 0.800 instead of 0.700."),
        (report(0.8, low=0.6), "Better than guessing, on 40 held-out studies: AUROC 0.800"),
        (report(0.6), "Not shown to be better than guessing"),
        (report(0.2, low=0.1, high=0.4), "Worse than guessing"),
        (report(0.8, comparison=compared(0.1, 0.02, 0.2, 0.0312)), "Better than its start, me/base, on 40 "
         "held-out studies: AUROC 0.800 instead of 0.700, a difference of +0.100 (95 % interval +0.020 to +0.200, "
         "p = 0.0312)."),
        (report(0.8, comparison=compared(0.1, 0.02, 0.2, 0.0625)), "Not shown to be better than its start, me/base"),
        (report(0.6, comparison=compared(-0.1, -0.2, -0.02, 0.0625)), "Not shown to be better than its start"),
        (report(0.5, low=None, too_few=None), "Not shown to be better than guessing: it gives all studies the same "),
        (report(0.8, 12, low=None), "guessing: fewer than 20 patients. Here: AUROC 0.800."),
        (report(0.8, low=None), "guessing: one patient has all studies of a class. Here: AUROC 0.800."),
        (report(0.8, comparison={**compared(0.1, 0, 0.2), "is_start": False}), "better than guessing"),
        (report(None), "Too few studies to tell whether it is better than guessing: one class only. Here: AUROC not"),
    ],
)  # fmt: skip
def test_the_verdict_is_in_plain_words(content, words):
    assert words in describe_verdict(content)
