import torch

from mura_hf import MuraImageProcessor, load_mura
from mura_hf.data import Augmentation, StudyDataset, ViewDataset, collate_studies


def test_a_study_has_its_views_and_a_batch_is_padded(phantom_tree):
    rows = load_mura(phantom_tree, dev_fraction=0.25, calib_fraction=0.1)["train"]
    views = ViewDataset(rows, MuraImageProcessor(size={"height": 32, "width": 32}), Augmentation())
    studies = StudyDataset(views)
    assert studies.study_ids == list(dict.fromkeys(rows["study_id"]))
    sizes = [len(members) for members in studies.members]
    assert sum(sizes) == len(rows)
    small, large = sizes.index(min(sizes)), sizes.index(max(sizes))
    assert sizes[small] < sizes[large]
    studies.set_epoch(3)
    batch = collate_studies([studies[small], studies[large]])
    assert batch["pixel_values"].shape == (2, sizes[large], 3, 32, 32)
    assert batch["view_mask"].sum(1).tolist() == [sizes[small], sizes[large]]
    assert not batch["pixel_values"][0, sizes[small] :].any()
    assert batch["index"].tolist() == [small, large]
    for place, number in enumerate((small, large)):
        for view, row in enumerate(studies.members[number]):
            assert torch.equal(batch["pixel_values"][place, view], views[row]["pixel_values"])
            assert batch["labels"][place] == rows["label"][row]
            assert batch["body_parts"][place] == rows["body_part"][row]
    first = studies[large]["pixel_values"]
    studies.set_epoch(4)
    assert not torch.equal(first, studies[large]["pixel_values"])
