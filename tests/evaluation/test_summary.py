import json

import pytest

from mura_hf.common import BUNDLED
from mura_hf.evaluation import describe_evaluation
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
    for words in (
        "AUROC",
        "Out of distribution: flags",
        "Pointing game: ",
        "Area under P(abnormal): deletion",
        "AUROC of the 25",
    ):
        assert words in lines
    assert ("synthetic" in lines) == (name == "mura-phantom")
