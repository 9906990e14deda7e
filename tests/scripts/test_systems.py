"""Walks the README's table of systems. Here backbones are slim; `measure.py systems` walks it with the real ones."""

import re
from pathlib import Path

import pytest
from systems import render_films, walk_system

from mura_hf.training import recipe_names

ROW = re.compile(r"^\|.*\| `(\w+)` \| `(Mura\w+)`", re.MULTILINE)
TABLE = dict(ROW.findall((Path(__file__).parents[2] / "README.md").read_text()))


@pytest.fixture(scope="module")
def films():
    return render_films()


def test_every_system_is_in_the_table():
    assert set(TABLE) == {name for name in recipe_names() if re.match("[a-ex]_", name)}


@pytest.mark.parametrize(("name", "kind"), TABLE.items(), ids=list(TABLE))
def test_system(name, kind, films):
    found = walk_system(name, *films, side=48, slim=True)
    assert found["system"] == kind
    for stage, learned in found["stages"].items():
        assert learned["left"] <= (0.7 if learned["frozen"] else 0.2), (stage, learned)
    assert found["equal"]
    assert found["heatmaps"] or "No heatmap" in found["why_not"]
