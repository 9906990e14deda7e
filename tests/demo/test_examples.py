import json
import shutil

import make_examples
import numpy as np
from PIL import Image

from mura_hf.common import BODY_PARTS
from mura_hf.demo.examples import EXAMPLES_FOLDER, find_example, load_examples


def test_the_shipped_pictures_are_those_of_the_script(tmp_path):
    make_examples.main(["--output_dir", str(tmp_path), "--studies_per_set", "1"])
    shipped = json.loads((EXAMPLES_FOLDER / "examples.json").read_text())
    rendered = json.loads((tmp_path / "examples.json").read_text())
    assert all(record in shipped for record in rendered)
    for file in (file for record in rendered for file in record["files"]):
        with Image.open(tmp_path / file) as new, Image.open(EXAMPLES_FOLDER / file) as old:
            assert old.mode == "L"
            np.testing.assert_array_equal(np.asarray(new), np.asarray(old))


def test_each_example_has_files_of_its_own():
    for name, count in (("study", 9), ("worklist", 12)):
        examples = load_examples(name)
        assert len(examples) == count
        assert {example.body_part for example in examples} == set(BODY_PARTS)
        assert 3 <= sum(example.label == "abnormal" for example in examples) <= count - 3
    files = [file for name in ("study", "worklist") for example in load_examples(name) for file in example.files]
    assert len(files) == len(set(files)) == len(list(EXAMPLES_FOLDER.glob("*.png")))
    assert load_examples("study")[0].caption == "wrist, abnormal (displaced fracture)"
    assert load_examples("study")[1].caption == "hand, normal"


def test_an_example_is_recognised_by_names_and_contents(tmp_path):
    example = load_examples("worklist")[3]
    files = [shutil.copy(file, tmp_path) for file in example.files]
    assert find_example(files) == example
    assert find_example(files[:1]) is None
    assert find_example([*files, "other.png"]) is None
    assert find_example([]) is None
    shutil.copy(files[1], files[0])
    assert find_example(files) is None
