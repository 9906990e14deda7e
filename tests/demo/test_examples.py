import numpy as np
from PIL import Image

from mura_hf.demo.examples import find_example, render_examples, write_examples
from mura_hf.phantoms import BODY_PARTS, render_phantom


def test_each_example_has_files_of_its_own(tmp_path):
    examples = write_examples(tmp_path, render_examples())
    files = [file for example in examples for file in example.files]
    assert len(files) == len(set(files)) == len(list(tmp_path.iterdir()))
    captions = [example.caption for example in examples]
    assert len(captions) == len(set(captions))
    assert {caption.split(",")[0] for caption in captions} == set(BODY_PARTS)
    assert 3 <= sum("abnormal" in caption for caption in captions) <= len(captions) - 3


def test_the_files_show_what_the_caption_says(tmp_path):
    first = write_examples(tmp_path, render_examples())[0]
    assert first.caption == "wrist, abnormal (displaced fracture)"
    with Image.open(first.files[0]) as image:
        found = np.asarray(image)
    expected = render_phantom(910_001, body_part="wrist", view=0, finding="displaced_fracture")
    np.testing.assert_array_equal(found, expected.pixels)


def test_an_example_is_known_by_its_files(tmp_path):
    examples = write_examples(tmp_path, render_examples())
    assert find_example(tuple(examples[3].files), examples) is examples[3]
    assert find_example(examples[3].files[:1], examples) is None
    assert find_example([*examples[3].files, "other.png"], examples) is None
