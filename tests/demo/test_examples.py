import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import make_examples
import numpy as np
from PIL import Image

from mura_hf.common import BODY_PARTS
from mura_hf.demo.examples import EXAMPLES_FOLDER, choose_examples, find_example, load_examples


def test_the_shipped_pictures_are_those_of_the_script(tmp_path):
    make_examples.main(["--output_dir", str(tmp_path), "--studies_per_set", "1"])
    shipped = json.loads((EXAMPLES_FOLDER / "examples.json").read_text())
    rendered = json.loads((tmp_path / "examples.json").read_text())
    for record in (*shipped, *rendered):
        record.pop("thumbnail", None)  # depends on the encoder
    assert all(record in shipped for record in rendered)
    for file in (file for record in rendered for file in record["files"]):
        with Image.open(tmp_path / file) as new, Image.open(EXAMPLES_FOLDER / file) as old:
            assert old.mode == "L"
            np.testing.assert_array_equal(np.asarray(new), np.asarray(old))


def test_each_example_has_files_of_its_own():
    for name, count, parts in (
        ("study", 9, BODY_PARTS),
        ("worklist", 12, BODY_PARTS),
        ("film", 6, ("hand", "shoulder")),
    ):
        examples = load_examples(name)
        assert len(examples) == count
        assert {example.body_part for example in examples} == set(parts)
        assert 3 <= sum(example.label == "abnormal" for example in examples) <= count - 3
    examples = [example for name in ("film", "study", "worklist") for example in load_examples(name)]
    files = [file for example in examples for file in example.files]
    assert len(files) == len(set(files)) == len([*EXAMPLES_FOLDER.glob("*.png"), *EXAMPLES_FOLDER.glob("*.jpg")])
    assert load_examples("study")[0].caption == "Wrist: displaced fracture"
    assert load_examples("study")[1].caption == "Hand: no finding"


def test_films_come_first_with_credit_and_are_small():
    shown = choose_examples()
    films = load_examples("film")
    assert shown[: len(films)] == films
    assert not {"hand", "shoulder"} & {example.body_part for example in shown[len(films) :]}
    for film in films:
        assert "CC BY 4.0" in film.credit
        assert all(Path(file).stat().st_size < 150_000 for file in film.files)
    assert {film.caption for film in films} == {
        "Hand or arm: fracture", "Hand or arm: no fracture", "Shoulder: fracture", "Shoulder: no fracture",
    }  # fmt: skip
    assert all(example.thumbnail.startswith("data:image/webp;base64,") for example in shown)


def test_films_are_drawn_by_chance_from_those_held_out(tmp_path, monkeypatch):
    """With a stand-in for the loader: whatever the seed, only held-out films of one projection can be drawn."""
    (tmp_path / "images" / "all").mkdir(parents=True)
    rows = {"study_id": [], "region": [], "label": []}
    lines = ["image_id,multiscan"]
    for number in range(60):
        name, region, label = f"IMG{number:07}", ("hand", "shoulder")[number % 2], number // 2 % 2
        Image.new("L", (40, 50), number).save(tmp_path / "images" / "all" / f"{name}.jpg")
        lines.append(f"{name}.jpg,{int(number % 5 == 0)}")
        if number % 3:
            for key, value in zip(rows, (name, region, label), strict=True):
                rows[key].append(value)
    (tmp_path / "dataset.csv").write_text("\n".join(lines) + "\n")
    source = SimpleNamespace(name="FracAtlas", citation="Abedeen I. and others.")
    monkeypatch.setattr("mura_hf.data.load_data", lambda *_, **options: ({"valid": rows}, source))
    drawn = make_examples.draw_films(tmp_path, tmp_path)
    assert [(one["body_part"], one["label"]) for one in drawn] == [
        (region, ("normal", "abnormal")[label]) for region, label, count in make_examples.FILMS for _ in range(count)
    ]
    numbers = [int(one["files"][0][3:10]) for one in drawn]
    assert len(set(numbers)) == len(numbers)
    assert all(number % 3 and number % 5 for number in numbers)
    assert make_examples.draw_films(tmp_path, tmp_path) == drawn


def test_an_example_is_recognised_by_names_and_contents(tmp_path):
    example = load_examples("worklist")[3]
    files = [shutil.copy(file, tmp_path) for file in example.files]
    assert find_example(files) == example
    assert find_example(files[:1]) is None
    assert find_example([*files, "other.png"]) is None
    assert find_example([]) is None
    shutil.copy(files[1], files[0])
    assert find_example(files) is None
