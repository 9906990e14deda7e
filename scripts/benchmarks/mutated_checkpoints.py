"""Mutates the files of small checkpoints, and loads them as checkpoints of strangers are loaded.

Topics (60 minutes):
  mutated  20,000 mutated safetensors, config and processor files: each must end as a working model or as a
           `CheckpointError`; no code may run, and no file outside of the checkpoint may be opened for writing
"""

import json
import logging
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import timm
import torch
import transformers
from harness import run_benchmark
from safetensors.torch import save_file
from tqdm.auto import tqdm

from mura_hf import (
    CheckpointError,
    MuraConfig,
    MuraEnsembleForImageClassification,
    MuraForImageClassification,
    MuraImageProcessor,
    StudyPredictor,
)
from mura_hf.inference.loading import PUBLIC_CHECKPOINTS

SIDE = 32
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
PICTURE = np.random.default_rng(0).integers(0, 255, (40, 30), np.uint8)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 17, 2**31, 2**63, 10**30, 1e308, -0.5, 1e-9, float("nan"), float("inf"), "",
    "0", "../../x", "/etc/passwd", "hf-hub:nobody/nothing", "vit", "mura", "mura_ensemble", "__import__('os').abort()",
    [], [0], [1, 2, 3], {}, {"0": "a"}, {"height": 10**6}, [[[[]]]], "x" * 10_000,
)  # fmt: skip
_KEYS = ("auto_map", "quantization_config", "torch_dtype", "architectures", "model_type", "backbone", "_name_or_path",
         "image_processor_type", "processor_class", "custom_pipelines", "base_model_name_or_path")  # fmt: skip


def write_checkpoints(folder: Path) -> list[Path]:
    """Writes one small checkpoint of each kind: our own, an ensemble, and external ones of transformers and timm."""
    torch.manual_seed(0)
    small = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [4, 4, 8, 8]}, "image_size": SIDE}
    one, two = (MuraForImageClassification(MuraConfig(**small, body_part_head=True)) for _ in range(2))
    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    vit = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=SIDE, **labels
    )
    models = {
        "mura": one,
        "ensemble": MuraEnsembleForImageClassification.from_members({"one": one, "two": two}),
        "vit": transformers.ViTForImageClassification(vit),
    }
    for name, model in models.items():
        kind = transformers.ViTImageProcessor if name == "vit" else MuraImageProcessor
        model.save_pretrained(folder / name)
        kind(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / name)
    network = timm.create_model("resnet10t", num_classes=2, channels=[4, 4, 8, 8])
    (folder / "timm").mkdir()
    save_file(network.state_dict(), folder / "timm" / "model.safetensors", metadata={"format": "pt"})
    seen = {"input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"architecture": "resnet10t", "num_classes": 2, "label_names": ["negative", "positive"]}
    config |= {"model_args": {"channels": [4, 4, 8, 8]}, "pretrained_cfg": seen}
    (folder / "timm" / "config.json").write_text(json.dumps(config))
    return sorted(folder.iterdir())


def mutate(name: str, data: bytes, rng: random.Random) -> bytes:
    """Changes a file: some of its values if it is JSON or has a JSON header, or any of its bytes."""
    if rng.random() < 0.25:
        return _change_bytes(data, rng)
    if name.endswith(".json"):
        return json.dumps(_change_values(json.loads(data), rng)).encode()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(_change_values(json.loads(data[8 : 8 + size]), rng)).encode()
    length = len(header) if rng.random() < 0.9 else rng.choice([0, len(header) + 1, 2**32, 2**63])
    return struct.pack("<Q", length) + header + data[8 + size :]


def _change_bytes(data: bytes, rng: random.Random) -> bytes:
    changed, count = bytearray(data), rng.randint(1, 8)
    for _ in range(count):
        place = rng.randrange(len(changed) + 1) if rng.random() < 0.5 else rng.randrange(min(400, len(changed)) + 1)
        length = rng.choice([1, 1, 2, 8, 64])
        match rng.randrange(4):
            case 0:
                changed[place : place + length] = rng.randbytes(length)
            case 1:
                del changed[place : place + length]
            case 2:
                changed[place:place] = changed[place : place + length]
            case _:
                del changed[max(place, 1) :]
    return bytes(changed)


def _change_values(values: Any, rng: random.Random) -> Any:
    for _ in range(rng.randint(1, 3)):
        places = list(_places(values))
        if not places:
            break
        parent, key = rng.choice(places)
        match rng.randrange(5):
            case 0 if isinstance(parent, dict):
                del parent[key]
            case 1:
                parent[key] = deepcopy(rng.choice([other[place] for other, place in places]))
            case 2 if isinstance(parent, dict):
                parent[rng.choice([*_KEYS, f"{key}2", key.upper()])] = deepcopy(rng.choice(_VALUES))
            case 3 if isinstance(parent[key], int | float):
                parent[key] = parent[key] * rng.choice([-1, 0, 2, 1000, 10**6]) + rng.choice([0, 1])
            case _:
                parent[key] = deepcopy(rng.choice(_VALUES))
    return values


def _places(values: Any) -> Any:
    """Each dict or list with each of its keys."""
    for key, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
        yield values, key
        if isinstance(value, dict | list):
            yield from _places(value)


class Watch:
    """Notes forbidden actions, from Python's audit events: writing, running programs or code, using the network."""

    def __init__(self) -> None:
        self.place, self.found = "", Counter[str]()
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.place:
            return
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        reads_elsewhere = event == "open" and str(arguments[0]).startswith(("/etc/passwd", "../../x"))
        runs = event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class")
        moves = event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.symlink")
        if writes or reads_elsewhere or runs or moves or event in ("socket.connect", "socket.getaddrinfo"):
            self.found[f"{event} {str(arguments[0])[:80]}"] += 1

    @contextmanager
    def watching(self, place: Path) -> Any:
        """Notes what happens inside of the block, while the checkpoint in a folder is loaded."""
        self.place = str(place)
        try:
            yield
        finally:
            self.place = ""


def measure_mutated(count: int = 20_000, first: int = 0) -> dict[str, Any]:
    """Loads mutated checkpoints with the limits of a public app. Errors other than `CheckpointError` are counted.

    The number of a checkpoint, `first` and up, decides what is changed in it.

    Returns:
        `files`, `working`, `refused`; `other_errors` and `forbidden`, each with their kinds; `slowest_seconds`,
        `peak_megabytes` of the process, and `minutes`.
    """
    logging.disable(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    ends, others, watch = Counter[str](), Counter[str](), Watch()
    slowest, begin = 0.0, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "good").mkdir()
        good, place = write_checkpoints(root / "good"), root / "mutated"
        for number in tqdm(range(first, first + count), desc="Mutated checkpoints"):
            rng = random.Random(number)
            source = rng.choice(good)
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(source, place)
            for name in rng.sample(FILES, 1 if rng.random() < 0.8 else 2):
                if (place / name).exists():
                    (place / name).write_bytes(mutate(name, (place / name).read_bytes(), rng))
            start = time.perf_counter()
            try:
                with watch.watching(place):
                    predictor = StudyPredictor.from_pretrained(place, device="cpu", limits=PUBLIC_CHECKPOINTS)
                    probability = predictor([PICTURE], heatmaps=False, body_part=None).probability
                ends["working" if 0 <= probability <= 1 else "no probability"] += 1
            except CheckpointError:
                ends["refused"] += 1
            except Exception as error:  # a finding
                others[f"{source.name} {number}: {type(error).__name__}: {str(error)[:150]}"] += 1
            slowest = max(slowest, time.perf_counter() - start)
    logging.disable(logging.NOTSET)
    return {
        "files": count,
        "working": ends["working"],
        "refused": ends["refused"],
        "other_errors": dict(others, **{name: n for name, n in ends.items() if name == "no probability"}),
        "forbidden": dict(watch.found),
        "slowest_seconds": round(slowest, 2),
        "peak_megabytes": round(getrusage(RUSAGE_SELF).ru_maxrss / 1000),
        "minutes": round((time.monotonic() - begin) / 60, 1),
    }


TOPICS = {"mutated": (measure_mutated, {"count": 60})}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    return run_benchmark(__doc__, TOPICS, argv)


if __name__ == "__main__":
    main()
