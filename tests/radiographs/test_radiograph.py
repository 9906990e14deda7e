import importlib.util
import re

from mura_hf.common import BODY_PARTS
from mura_hf.radiographs import radiograph
from mura_hf.radiographs.radiograph import find_body_part, hash_patient

WORDS = {
    "wrist": ["WRIST", "wrist", "SCAPHOID"],
    "hand": ["Lt_Hand", "R HAND 2 VIEWS", "LHAND", "HANDR"],
    "finger": ["LTHUMB", "THUMB", "Finger(s)"],
    "humerus": ["UPPER ARM", "UPPERARM"],
    "forearm": ["Fore-arm", "RADIUS_ULNA", "RADIUS"],
    "elbow": ["ELBOW JOINT"],
    "shoulder": ["CLAVICLE", "AC JOINT"],
    None: [
        "A C JOINT",
        "ARM",
        "UP_EXM",
        "EXTREMITY",
        "HAND AND WRIST",
        "HAND FOOT",
        "CHEST",
        "TOE",
        "",
        "SECRET^NAME",
    ],
}


def test_body_parts_of_hospitals():
    assert {part for part in WORDS if part} == set(BODY_PARTS)
    for part, texts in WORDS.items():
        assert {text: find_body_part(text) for text in texts} == dict.fromkeys(texts, part)


def test_patient_hashes_are_equal_within_a_process_only():
    one, again, other, none = map(hash_patient, ("ab 12", "ab 12 ", "ab 13", " "))
    assert one == again != other
    assert none is None
    assert re.fullmatch("[0-9a-f]{24}", one)
    spec = importlib.util.spec_from_file_location("mura_hf.radiographs.copy", radiograph.__file__)
    elsewhere = importlib.util.module_from_spec(spec)  # imported afresh, as in another process
    spec.loader.exec_module(elsewhere)
    assert elsewhere.hash_patient("ab 12") != one
    elsewhere.HASH_KEY = radiograph.HASH_KEY  # as in a worker
    assert elsewhere.hash_patient("ab 12") == one
