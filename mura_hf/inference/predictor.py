"""`StudyPredictor`: from the files of one study to an explained prediction."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError
from ..explain import AUTO, Heatmaps, check_method
from ..models import BODY_PARTS, GOLDEN_FILE, Golden, MuraClassifier, MuraImageProcessor, StudyOutput, read_golden
from ..models.golden_mura import digest_weights
from ..radiographs import Radiograph
from ..retrieval import Neighbour, OODDetector, OODResult, RetrievalIndex, View, feature_means, view_codes
from .external_processor import ExternalProcessor
from .inputs import check_device, check_dtype, list_views, read_view
from .loading import (
    OOD_WARNING,
    UNREADABLE,
    Source,
    find_file,
    find_source,
    find_weights,
    golden_warning,
    load_checkpoint,
    load_index,
    load_ood_detector,
)
from .measured_performance import MeasuredPerformance, read_measured_performance
from .postprocessing import compute_heatmaps, find_conflicts, make_prediction, view_part_probabilities
from .prediction import PHANTOM_WARNING, StudyPrediction


class StudyPredictor:
    """Classifies studies with one checkpoint. Threads may share it.

    Args:
        model: Any classifier of the package.
        processor: Its image processor.
        checkpoint: Name of the checkpoint in predictions.
        warnings: Warnings to add to each prediction. The one about phantoms is added automatically.
        ood_detector: Out-of-distribution detector, if there is one.
        source: Where the checkpoint is; None for a model made in memory.
    """

    def __init__(
        self,
        model: MuraClassifier,
        processor: MuraImageProcessor | ExternalProcessor,
        checkpoint: str,
        warnings: Sequence[str] = (),
        ood_detector: OODDetector | None = None,
        source: Source | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.checkpoint = checkpoint
        self.ood_detector = ood_detector
        self.warnings = [PHANTOM_WARNING] * model.config.trained_on_phantoms + list(warnings)
        self._source = source
        self._index: RetrievalIndex | None = None
        self._index_is_open = source is None  # a model made in memory has none
        self._index_lock = Lock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        abnormal_label: str | None = None,
    ) -> "StudyPredictor":
        """Loads a checkpoint of this package, or any image classifier of transformers or timm with two labels.

        Code that comes with a checkpoint is never run.

        Args:
            name_or_path: Hub name, local folder, or name of a bundled checkpoint such as "mura-phantom". If None, the
                environment variable `MURA_CHECKPOINT`, or else the default checkpoint.
            revision: Branch, tag or commit on the Hub.
            device: Device of the model; by default the accelerator if there is one, else the CPU.
            dtype: Dtype of the weights.
            abnormal_label: The label of an external checkpoint that means abnormal, if the label texts do not say so.

        Raises:
            CheckpointError: If the checkpoint cannot be found, does not classify normal against abnormal, does not say
                which label is which, or its files do not fit each other.
            ValueError: If this machine has no such device, or the dtype does not exist.
        """
        device, dtype = check_device(device), check_dtype(dtype)
        source = find_source(name_or_path, revision)
        try:
            model, processor, warnings = load_checkpoint(source, dtype, abnormal_label)
            model = model.to(device, memory_format=torch.channels_last)
            detector, problem = load_ood_detector(source)
            warnings += [] if problem is None else [problem]
            predictor = cls(model, processor, source.name, warnings, detector, source)
            golden, file = None, find_file(source, GOLDEN_FILE)
            try:
                golden = None if file is None else read_golden(file)
            except ValueError:
                predictor.warnings.append(UNREADABLE)
            predictor._test_run(golden)
        except CheckpointError:
            raise
        except Exception as error:  # checkpoints are untrusted and may fail in any way
            reason = (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
            raise CheckpointError(
                f"{source.location} cannot be loaded: {reason}. Check the files of the checkpoint, and the network."
            ) from error
        return predictor

    def _test_run(self, golden: Golden | None) -> None:
        """Runs one picture, so that a broken checkpoint fails when it is loaded, and compares its golden check."""
        gradient = np.rint(np.linspace(0, 255, 4096)).astype(np.uint8).reshape(64, 64)
        picture = gradient if golden is None else golden.picture
        pixel_values = self.processor(images=[picture], return_tensors="pt")["pixel_values"]
        members = getattr(self.model, "members", None) if self.model.NEEDS_PART else None
        for part in [None] if members is None else members:
            output = self._run(pixel_values, part)
            if golden is not None and part in (None, BODY_PARTS[golden.body_part]):
                difference = float((output.view_logits[0].float().cpu() - golden.logits).abs().max())
                warning = golden_warning(difference, self.model.dtype)
                self.warnings += [warning] if warning else []
        router: Any = getattr(self.model, "router", None)
        if router is not None:  # run separately, because it may choose a body part without a model
            with torch.no_grad():
                output = router.classify_views(pixel_values.to(self.model.device, self.model.dtype))
            self._check_finite(output.body_part_logits)

    def __call__(
        self,
        views: Iterable[View],
        *,
        body_part: str | None = None,
        operating_point: str | None = None,
        names: Sequence[str] | None = None,
        heatmaps: bool = True,
        method: str | None = None,
    ) -> StudyPrediction:
        """Classifies one study, all views in one batch.

        Args:
            views: Paths, file contents, PIL images, arrays (uint8, or float in [0, 1]) or `Radiograph`s.
            body_part: One of the seven body parts, if known; predicted by the model if None.
            operating_point: Name of a threshold in the checkpoint's config; its default one if None.
            names: Names of the views; their file names if None.
            heatmaps: Whether to compute heatmaps and regions.
            method: Heatmap method, one of `mura_hf.explain.METHODS`; by default the cheapest one that is exact for the
                model.

        Raises:
            RadiographError: If a view cannot be read. The message names it.
            CheckpointError: If the output of the model is not finite.
            ValueError: If `views` is not a list of at least one view, the body part, operating point or method is
                unknown, or a checkpoint with one model per body part has none for this one or cannot predict it.
        """
        views, names = list_views(views, names)
        if body_part is not None and body_part not in BODY_PARTS:
            raise ValueError(f"unknown body part {body_part!r}; choose one of {', '.join(BODY_PARTS)}")
        method = check_method(AUTO if method is None else method)
        point, threshold = self.find_threshold(operating_point)
        radiographs = [read_view(view, name, self.processor) for view, name in zip(views, names, strict=True)]
        pixel_values = self.pixel_values(radiographs)
        output = self._run(pixel_values, body_part, explainable=heatmaps)

        warnings = [*self.warnings, *(warning for radiograph in radiographs for warning in radiograph.warnings)]
        ood_result: OODResult | None = None
        if self.ood_detector is not None and output.views is not None:
            ood_result = self.ood_detector.detect(feature_means(output.views).cpu().numpy())
            warnings += [] if ood_result.in_distribution else [OOD_WARNING]
        warnings += find_conflicts(names, radiographs, view_part_probabilities(output, ood_result))
        found: Heatmaps | None = None
        maps: list[np.ndarray] = []
        if heatmaps:
            try:
                found, maps = compute_heatmaps(
                    self.model, self.processor, output, pixel_values, radiographs, body_part, method
                )
            except CheckpointError as error:
                warnings.append(f"No heatmap: {error}.")
        codes = None
        with suppress(CheckpointError):  # external networks may have none
            codes = view_codes(self.model, output.views).cpu().numpy()  # type: ignore[arg-type]
        return make_prediction(
            output,
            self.model.config,
            names,
            radiographs,
            threshold=threshold,
            body_part=body_part,
            ood_result=ood_result,
            heatmaps=found,
            maps=maps,
            operating_point=point,
            checkpoint=self.checkpoint,
            warnings=warnings,
            codes=codes,
        )

    def predict_many(self, studies: Iterable[Iterable[View]], **options: Any) -> Iterator[StudyPrediction]:
        """Classifies studies one after another as they arrive. `options` are those of a call."""
        for views in studies:
            yield self(views, **options)

    @property
    def index(self) -> RetrievalIndex | None:
        """The retrieval index of the checkpoint, opened on first use; None if it has none.

        Raises:
            CheckpointError: If it is damaged, or belongs to other weights or settings.
            ImportError: If pyarrow is not installed (extra `train`).
        """
        with self._index_lock:
            if not self._index_is_open:
                assert self._source is not None
                self._index = load_index(self._source, self.model, self.processor)
                self._index_is_open = True
            return self._index

    def similar(
        self,
        study: StudyPrediction | Iterable[View],
        k: int = 5,
        body_part: str | None = None,
        exclude_patient: str | None = None,
    ) -> list[Neighbour]:
        """Returns the studies of the checkpoint's index that are most similar, see `RetrievalIndex.search`.

        Args:
            study: A prediction of this predictor, which holds its codes; or the views of a study.
            k: Number of studies.
            body_part: Return only studies of this body part.
            exclude_patient: Leave out the studies of this patient of the index.

        Raises:
            CheckpointError: If the checkpoint has no index, or one that does not fit it.
            ImportError: If pyarrow is not installed (extra `train`).
            ValueError: As a call, and if k is below 1.
        """
        index = self.index
        if index is None:
            raise CheckpointError(f"{self.checkpoint} has no index of studies; build one with scripts/build_index.py")
        prediction = study if isinstance(study, StudyPrediction) else self(study, heatmaps=False)
        assert prediction.codes is not None  # a model with an index has codes
        return index.search_codes(prediction.codes, k, body_part, exclude_patient)

    def find_threshold(self, operating_point: str | None = None) -> tuple[str, float]:
        """Returns name and threshold of an operating point; of the checkpoint's default one if None.

        Raises:
            ValueError: If the checkpoint has no such operating point.
        """
        points = self.model.config.operating_points
        name = self.model.config.default_operating_point if operating_point is None else operating_point
        if name not in points:
            raise ValueError(f"unknown operating point {name!r}; this checkpoint has {', '.join(points)}")
        return name, float(points[name])

    @cached_property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weights, see `digest_weights`; None for a model made in memory."""
        folder = None if self._source is None else find_weights(self._source)
        return None if folder is None else digest_weights(folder)

    @cached_property
    def measured_performance(self) -> MeasuredPerformance:
        """Measured performance of the operating points, from the checkpoint's `evaluation.json`."""
        file = None if self._source is None else find_file(self._source, "evaluation.json")
        return MeasuredPerformance({}) if file is None else read_measured_performance(file, self.weights_sha256)

    def pixel_values(self, radiographs: Sequence[Radiograph]) -> torch.Tensor:
        """Returns the input of the model, float32 `[V, C, H, W]`."""
        pictures = [radiograph.pixels for radiograph in radiographs]
        return self.processor(images=pictures, return_tensors="pt")["pixel_values"]

    def _run(self, pixel_values: torch.Tensor, body_part: str | None, *, explainable: bool = False) -> StudyOutput:
        pixel_values = pixel_values.to(self.model.device, self.model.dtype)
        options = {}
        if self.model.NEEDS_PART and body_part is not None:
            options["body_parts"] = torch.tensor([BODY_PARTS.index(body_part)], device=self.model.device)
        with torch.no_grad():
            output: StudyOutput = self.model(pixel_values[None].contiguous(), explainable=explainable, **options)
        self._check_finite(output.study_logits, output.view_logits)
        return output

    def _check_finite(self, *logits: torch.Tensor) -> None:
        if not all(torch.isfinite(values).all() for values in logits):
            raise CheckpointError(f"{self.checkpoint} outputs NaN or infinity; its weights are damaged")
