"""transformers' own Trainer on our models."""

import pytest
import torch
from transformers import Trainer, TrainingArguments, default_data_collator

from mura_hf import MuraForImageClassification, MuraImageProcessor
from mura_hf.data import ViewDataset
from tests.conftest import SIDE, make_model


def test_trains_saves_and_loads(phantom_splits, tmp_path):
    processor = MuraImageProcessor(size={"height": SIDE, "width": SIDE})
    views = ViewDataset(phantom_splits["train"].select(range(8)), processor)
    trainer = Trainer(
        make_model(body_part_head=True),
        TrainingArguments(
            output_dir=tmp_path / "run", max_steps=5, per_device_train_batch_size=4, gradient_accumulation_steps=2,
            learning_rate=1e-3, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True,
            disable_tqdm=True, lr_scheduler_type="constant",
        ),
        train_dataset=views,
    )  # fmt: skip
    with torch.no_grad():
        before = trainer.model.train()(**default_data_collator([views[n] for n in range(8)])).loss.item()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(before, rel=0.4)  # a mean over what was accumulated, not a sum
    assert losses[-1] < 0.8 * losses[0]
    trainer.save_model(tmp_path / "model")
    pictures = torch.stack([views[n]["pixel_values"] for n in range(4)])
    with torch.no_grad():
        expected = trainer.model.eval()(pictures).logits
        found = MuraForImageClassification.from_pretrained(tmp_path / "model")(pictures).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
