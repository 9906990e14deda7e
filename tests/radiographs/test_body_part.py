import pytest

from mura_hf.models import BODY_PARTS
from mura_hf.radiographs import radiograph as body_part
from mura_hf.radiographs.radiograph import find_body_part


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("WRIST", "wrist"),
        ("wrist", "wrist"),
        ("Lt_Hand", "hand"),
        ("R HAND 2 VIEWS", "hand"),
        ("LHAND", "hand"),
        ("HANDR", "hand"),
        ("LTHUMB", "finger"),
        ("THUMB", "finger"),
        ("Finger(s)", "finger"),
        ("UPPER ARM", "humerus"),
        ("UPPERARM", "humerus"),
        ("Fore-arm", "forearm"),
        ("RADIUS_ULNA", "forearm"),
        ("RADIUS", "forearm"),
        ("ELBOW JOINT", "elbow"),
        ("CLAVICLE", "shoulder"),
        ("A C JOINT", None),
        ("AC JOINT", "shoulder"),
        ("SCAPHOID", "wrist"),
        ("ARM", None),
        ("UP_EXM", None),
        ("EXTREMITY", None),
        ("HAND AND WRIST", None),
        ("HAND FOOT", None),
        ("CHEST", None),
        ("TOE", None),
        ("", None),
        ("SECRET^NAME", None),
    ],
)
def test_hospital_words(text, part):
    assert find_body_part(text) == part


def test_the_seven_are_those_of_the_models():
    assert tuple(BODY_PARTS) == body_part.BODY_PARTS
