import shutil

import numpy as np
from PIL import Image

from mura_hf.bundled import BUNDLED
from mura_hf.demo.examples import EXAMPLES_CHECKPOINT, are_examples, make_examples, without_examples
from mura_hf.phantoms import BODY_PARTS, render_phantom


def test_each_example_has_files_of_its_own(tmp_path):
    examples = make_examples(tmp_path)
    files = [file for example in examples for file in example.files]
    assert len(files) == len(set(files)) == len(list(tmp_path.iterdir()))
    captions = [example.caption for example in examples]
    assert len(captions) == len(set(captions))
    assert {caption.split(",")[0] for caption in captions} == set(BODY_PARTS)
    assert 3 <= sum("abnormal" in caption for caption in captions) <= len(captions) - 3


def test_the_files_show_what_the_caption_says(tmp_path):
    first = make_examples(tmp_path)[0]
    assert first.caption == "wrist, abnormal (displaced fracture)"
    with Image.open(first.files[0]) as image:
        found = np.asarray(image)
    expected = render_phantom(910_001, body_part="wrist", view=0, finding="displaced_fracture")
    np.testing.assert_array_equal(found, expected.pixels)


def test_copies_of_examples_are_known_by_name_and_content(tmp_path):
    ours = tmp_path / "ours"
    ours.mkdir()
    examples = make_examples(ours)
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    copies = [shutil.copy(file, uploads) for file in examples[0].files]
    own = str(uploads / "film.png")
    shutil.copy(copies[0], own)
    renamed = [own]
    assert are_examples(copies, examples)
    assert not are_examples(renamed, examples)
    assert not are_examples([*copies, own], examples)
    assert without_examples([*copies, own], examples) == renamed
    Image.new("L", (64, 64), 9).save(copies[0])
    assert not are_examples(copies, examples)
    assert EXAMPLES_CHECKPOINT in BUNDLED
