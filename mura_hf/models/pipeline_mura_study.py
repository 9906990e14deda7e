"""The pipeline for whole studies. It is part of exported checkpoints and needs transformers only."""

import os
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from PIL import Image, UnidentifiedImageError
from transformers import Pipeline

from .configuration_mura import BODY_PARTS, find_body_part
from .geometry_mura import to_gray_plane
from .heads_mura import scatter_views

STUDY_TASK = "mura-study-classification"
_TIMEOUT = 30  # seconds, for a URL
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH = 24  # offset of the bits per channel in a PNG file


class MuraStudyClassificationPipeline(Pipeline):
    """Classifies studies of one or more views.

    ```python
    from transformers import pipeline

    classify = pipeline("mura-study-classification", model="user/model", trust_remote_code=True)
    classify([["frontal.png", "lateral.png"]])  # one study: [[{"label": "abnormal", "score": 0.9}, ...]]
    classify([["a1.png", "a2.png"], ["b1.png"]])  # two studies
    ```

    Give a list of studies, each a list of views, or one study as a tuple. A single view counts as a study of one view,
    so `classify(["frontal.png", "lateral.png"])` are two studies, as in every pipeline.

    Views are paths or URLs of PNG or JPEG files, file contents, PIL images, arrays or tensors of 8 bits, or float
    arrays in [0, 1]. DICOM and 16-bit files must be windowed first, with `mura_hf.read_radiograph(file).pixels`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Classifies studies.

        Args:
            inputs: A list of studies, or one study as a tuple or as a single view; see the class.
            **options: `body_part`: one of the seven, if known for all studies; required if the checkpoint has one
                model for each part and no router. `views`: whether to return details; False by default.
                `operating_point`: name of a threshold in the config, for the label in the details. `batch_size`,
                `num_workers`: as in every pipeline; a batch consists of studies.

        Returns:
            For each study `[{"label": ..., "score": ...}, ...]`, the more likely label first. With `views=True` a
            dict: `label` at the threshold, `band` (one of `BANDS`), `probability` of abnormal, `threshold`,
            `operating_point`, `body_part` (None if neither given nor predicted), `region` (None without a head for
            it), `scores` (the list above), and `views` in their order, each with its `probability` of abnormal and its
            `weight` in the result. For a single study, its result without the outer list.

        Raises:
            ValueError: If a study is empty, a view cannot be read, the body part or operating point is unknown, or the
                body part is required but not given.
            TypeError: If an option is unknown.
        """
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **options)

    def _sanitize_parameters(
        self,
        body_part: str | None = None,
        views: bool | None = None,
        operating_point: str | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        body_part = None if body_part is None else find_body_part(body_part)
        if operating_point is not None:
            self.model.config.find_threshold(operating_point)
        forward = {} if body_part is None else {"body_part": body_part}
        postprocess = {"body_part": body_part, "views": views, "operating_point": operating_point}
        return {}, forward, {name: value for name, value in postprocess.items() if value is not None}

    def preprocess(self, input_: Any) -> dict[str, torch.Tensor]:
        """Returns `pixel_values` `[V, C, H, W]` of one study, and `n_views`, because a batch concatenates all."""
        views = list(input_) if isinstance(input_, list | tuple) else [input_]
        if not views:
            raise ValueError("a study is empty; it needs at least one view")
        planes = [_read_view(view, number) for number, view in enumerate(views, 1)]
        pixel_values = self.image_processor(images=planes, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixel_values.to(self.model.dtype), "n_views": torch.tensor([len(planes)])}

    def _forward(self, input_tensors: dict[str, torch.Tensor], body_part: str | None = None) -> dict[str, Any]:
        counts, views = input_tensors["n_views"].tolist(), input_tensors["pixel_values"]
        mask = torch.arange(max(counts), device=views.device) < torch.tensor(counts, device=views.device)[:, None]
        studies = scatter_views(views, mask)
        given = {}
        if body_part is not None and self.model.NEEDS_PART:
            given["body_parts"] = torch.full((len(counts),), BODY_PARTS.index(body_part), device=views.device)
        output = self.model(studies, view_mask=mask, **given)
        if not torch.isfinite(output.study_logits).all():
            raise ValueError("the logits of the model are not finite; its weights are damaged")
        names = ("study_logits", "view_logits", "view_weights", "body_part_logits", "region_logits")
        return {**{name: getattr(output, name) for name in names}, "n_views": input_tensors["n_views"]}

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        body_part: str | None = None,
        views: bool = False,
        operating_point: str | None = None,
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Returns the result of one study; see `__call__`."""
        # In double precision, as in mura_hf.StudyPredictor.
        probabilities = model_outputs["study_logits"][0].double().softmax(-1).tolist()
        labels = self.model.config.id2label
        scores = [{"label": labels[index], "score": score} for index, score in enumerate(probabilities)]
        scores.sort(key=lambda row: row["score"], reverse=True)
        if not views:
            return scores
        config, count = self.model.config, int(model_outputs["n_views"][0])
        point, threshold = config.find_threshold(operating_point)
        parts = model_outputs["body_part_logits"]
        predicted_part = None if parts is None else BODY_PARTS[int(parts[0].argmax())]
        regions = model_outputs["region_logits"]
        of_views = model_outputs["view_logits"][0, :count].double().softmax(-1)[:, 1].tolist()
        weights = model_outputs["view_weights"][0, :count].tolist()
        return {
            "label": labels[int(probabilities[1] > threshold)],
            "band": config.find_band(probabilities[1], threshold),
            "probability": probabilities[1],
            "threshold": threshold,
            "operating_point": point,
            "body_part": body_part or predicted_part,
            "region": None if regions is None else config.regions[int(regions[0].argmax())],
            "scores": scores,
            "views": [
                {"probability": probability, "weight": weight}
                for probability, weight in zip(of_views, weights, strict=True)
            ],
        }


def _read_view(view: Any, number: int) -> Any:
    """A view as a gray plane, uint8 `[H, W]`; not through RGB, which would silently clip 16 bits."""
    name = os.fspath(view) if isinstance(view, str | os.PathLike) else f"view {number}"
    try:
        if isinstance(view, str | os.PathLike):
            view = _read_file(name)
        if isinstance(view, bytes | bytearray):
            if view.startswith(_PNG) and view[_PNG_BIT_DEPTH : _PNG_BIT_DEPTH + 1] > b"\x08":
                raise ValueError(
                    "16 bits per channel must be windowed first: give mura_hf.read_radiograph(file).pixels"
                )
            view = Image.open(BytesIO(view), formats=("PNG", "JPEG"))
        return to_gray_plane(view)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is neither PNG nor JPEG; for DICOM give mura_hf.read_radiograph(file).pixels"
        ) from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:  # Pillow decodes in to_gray_plane and raises dozens of types
        raise ValueError(f"{name} cannot be decoded: {error}; copy or export it again") from error


def _read_file(name: str) -> bytes:
    try:
        if name.startswith(("http://", "https://")):
            with urlopen(Request(name, headers={"User-Agent": "mura_hf"}), timeout=_TIMEOUT) as response:
                return response.read()
        return Path(name).read_bytes()
    except (OSError, HTTPException) as error:
        raise ValueError(f"it cannot be read: {error}; give a path, a URL or an image") from error
