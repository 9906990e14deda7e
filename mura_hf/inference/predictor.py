"""`StudyPredictor`: files of one study in, one explained answer out."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError
from ..explain import AUTO, check_method
from ..models import BODY_PARTS, Golden, MuraClassifier, MuraImageProcessor, StudyOutput
from ..models.golden_mura import digest_weights
from ..radiographs import Radiograph
from ..retrieval import Neighbour, OODDetector, OODResult, RetrievalIndex, feature_means, view_codes
from .external_processor import ExternalProcessor
from .inputs import View, check_device, check_dtype, read_view, take_views
from .loading import (
    OOD_WARNING,
    UNREADABLE,
    LazyIndex,
    Source,
    find_file,
    find_source,
    find_weights,
    golden_warning,
    load_checkpoint,
    load_golden,
    load_ood_detector,
)
from .measured_performance import MeasuredPerformance, read_measured_performance
from .postprocessing import (
    assemble_answer,
    compute_heatmaps,
    describe_views,
    find_conflicts,
    parts_of_views,
    restore_heatmaps,
)
from .prediction import PHANTOM_WARNING, StudyPrediction


class StudyPredictor:
    """Reads a study with one checkpoint. Threads may share it.

    Args:
        model: Any that classifies.
        processor: The checkpoint's own.
        checkpoint: Its name in answers.
        warnings: Sentences that belong beside each of its answers; that about phantoms need not be among them.
        ood_detector: What tells whether a study is like those of training; None where that is not known.
        source: Where it came from, and its index lies; None where it was made in memory.
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
        self._index = LazyIndex(source, self.model, processor)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        abnormal_label: str | None = None,
    ) -> "StudyPredictor":
        """Loads a checkpoint: one of ours, or any image classifier of transformers or timm that has two labels, which
        brings its own image processor. Code that came with it is never run.

        Args:
            name_or_path: Hub name, local folder, or one of the package's own by its name, such as "mura-phantom".
                Where None, the environment's `MURA_CHECKPOINT`, else the package's default.
            revision: Branch, tag or commit on the Hub; folders have none.
            device: Where it runs; the first accelerator, or else the CPU, where None.
            dtype: Of the weights.
            abnormal_label: Which label of someone else's checkpoint means abnormal, where its words do not tell.

        Raises:
            CheckpointError: If it cannot be found, does not tell normal from abnormal, does not say which is which, or
                its files do not fit each other.
            ValueError: If this machine has no such device, or the dtype is none.
        """
        chosen, dtype = check_device(device), check_dtype(dtype)
        source = find_source(name_or_path, revision)
        try:
            model, processor, warnings = load_checkpoint(source, dtype, abnormal_label)
            model = model.to(chosen, memory_format=torch.channels_last)
            detector, trouble = load_ood_detector(source)
            warnings += [] if trouble is None else [trouble]
            predictor = cls(model, processor, source.name, warnings, detector, source)
            try:
                golden = load_golden(source)
            except ValueError:
                golden = None
                predictor.warnings.append(UNREADABLE)
            predictor._try_out(golden)
        except CheckpointError:
            raise
        except Exception as error:  # a checkpoint comes from strangers and may be wrong in any way
            reason = (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
            raise CheckpointError(
                f"{source.location} cannot be loaded: {reason}. Check the files of the checkpoint, and the network."
            ) from error
        return predictor

    def _try_out(self, golden: Golden | None) -> None:
        """Runs one picture, so that a checkpoint that cannot answer fails when it is loaded: its golden one where it
        has that, and then its answer must be the one that it had where it was made; else a gray one.

        Raises:
            CheckpointError: If processor and model do not fit, or the answer is not a number.
        """
        wedge = np.rint(np.linspace(0, 255, 4096)).astype(np.uint8).reshape(64, 64)
        picture = wedge if golden is None else golden.picture
        pixel_values = self.processor(images=[picture], return_tensors="pt")["pixel_values"]
        members = getattr(self.model, "members", None) if self.model.NEEDS_PART else None
        for part in [None] if members is None else members:
            output = self._run(pixel_values, part)
            if golden is not None and part in (None, BODY_PARTS[golden.body_part]):
                difference = float((output.view_logits[0].float().cpu() - golden.logits).abs().max())
                warning = golden_warning(difference, self.model.dtype)
                self.warnings += [warning] if warning else []
        router: Any = getattr(self.model, "router", None)
        if router is not None:  # by itself: the part that it names may be one without a model
            with torch.no_grad():
                output = router.classify_views(pixel_values.to(self.model.device, self.model.dtype))
            self._check(output.body_part_logits)

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
        """Reads one study, all views in one batch.

        Args:
            views: Paths, file contents, PIL images, arrays (uint8, or float in [0, 1]) or `Radiograph`s.
            body_part: One of the seven where known; found by the model where None.
            operating_point: Name of a threshold in the checkpoint's config; "paper" (.5) or its first where None.
            names: What to call the views; their file names where None.
            heatmaps: Whether to compute heatmaps and regions.
            method: Of heatmaps, one of `mura_hf.explain.METHODS`; the cheapest that is exact for the model where None.

        Raises:
            RadiographError: If a view cannot be read; the message names it.
            CheckpointError: If the model's answer is not a number.
            ValueError: If `views` is no list of at least one, the body part, operating point or method is unknown, or
                the checkpoint has models by body part but none for this one, or none that finds the part.
        """
        views, names = take_views(views, names)
        if body_part is not None and body_part not in BODY_PARTS:
            raise ValueError(f"unknown body part {body_part!r}; there are {', '.join(BODY_PARTS)}")
        method = check_method(AUTO if method is None else method)
        point, threshold = self.find_threshold(operating_point)
        radiographs = [read_view(view, name, self.processor) for view, name in zip(views, names, strict=True)]
        pixel_values = self.pixel_values(radiographs)
        output = self._run(pixel_values, body_part, explainable=heatmaps)

        warnings = [*self.warnings, *(warning for radiograph in radiographs for warning in radiograph.warnings)]
        judgement: OODResult | None = None
        if self.ood_detector is not None and output.views is not None:
            judgement = self.ood_detector.detect(feature_means(output.views).cpu().numpy())
            warnings += [] if judgement.in_distribution else [OOD_WARNING]
        warnings += find_conflicts(names, radiographs, parts_of_views(output, judgement))
        maps, found = None, None
        if heatmaps:
            try:
                found = compute_heatmaps(self.model, output, pixel_values, body_part, method)
                maps = [*restore_heatmaps(found.maps, radiographs, self.processor)]
            except CheckpointError as error:
                found = None
                warnings.append(f"No heatmap: {error}.")
        return assemble_answer(
            output,
            self.model.config,
            views=describe_views(output, names, radiographs, threshold, judgement, maps, found),
            threshold=threshold,
            operating_point=point,
            body_part=body_part,
            heatmap_method=None if found is None else found.method,
            judgement=judgement,
            checkpoint=self.checkpoint,
            warnings=warnings,
            codes=self._codes(output),
        )

    def predict_many(self, studies: Iterable[Iterable[View]], **options: Any) -> Iterator[StudyPrediction]:
        """Reads studies one after another as they come; `options` are those of a call."""
        for views in studies:
            yield self(views, **options)

    @property
    def index(self) -> RetrievalIndex | None:
        """The index that came with the checkpoint, opened when it is first asked for; None where it has none.

        Raises:
            CheckpointError: If it is damaged, or belongs to other weights or settings.
        """
        return self._index.get()

    def similar(
        self,
        study: StudyPrediction | Iterable[View],
        k: int = 5,
        body_part: str | None = None,
        exclude_patient: str | None = None,
    ) -> list[Neighbour]:
        """The studies of the checkpoint's index that look most like one; see `RetrievalIndex.search`.

        Args:
            study: An answer of this predictor, which holds its codes; or the views of a study, to be read first.
            k: How many.
            body_part: To find studies of that part only; of any where None.
            exclude_patient: Whose studies are left out, by their name in the index.

        Raises:
            CheckpointError: If the checkpoint has no index, or none that fits it.
            RadiographError: If a view cannot be read.
            ValueError: As a call, and if the part is unknown, or k below 1.
        """
        index = self.index
        if index is None:
            raise CheckpointError(f"{self.checkpoint} has no index of studies; build one with scripts/build_index.py")
        answer = study if isinstance(study, StudyPrediction) else self(study, heatmaps=False)
        assert answer.codes is not None  # what has an index has codes
        return index.search_codes(answer.codes, k, body_part, exclude_patient)

    def find_threshold(self, operating_point: str | None = None) -> tuple[str, float]:
        """Name and threshold of an operating point, the checkpoint's default one where None.

        Raises:
            ValueError: If the checkpoint has none of that name.
        """
        points = self.model.config.operating_points
        name = self.model.config.default_operating_point if operating_point is None else operating_point
        if name not in points:
            raise ValueError(f"unknown operating point {name!r}; this checkpoint has {', '.join(points)}")
        return name, float(points[name])

    @cached_property
    def weights_sha256(self) -> str | None:
        """Which weights these are, see `digest_weights`; None where they do not lie on this machine as files."""
        folder = None if self._source is None else find_weights(self._source)
        return None if folder is None else digest_weights(folder)

    @cached_property
    def measured_performance(self) -> MeasuredPerformance:
        """What the operating points were measured to achieve, as the checkpoint's `evaluation.json` tells."""
        file = None if self._source is None else find_file(self._source, "evaluation.json")
        return MeasuredPerformance({}) if file is None else read_measured_performance(file, self.weights_sha256)

    def pixel_values(self, radiographs: Sequence[Radiograph]) -> torch.Tensor:
        """What the model is fed, float32 `[V, C, H, W]`."""
        pictures = [radiograph.pixels for radiograph in radiographs]
        return self.processor(images=pictures, return_tensors="pt")["pixel_values"]

    def _run(self, pixel_values: torch.Tensor, body_part: str | None, *, explainable: bool = False) -> StudyOutput:
        pixel_values = pixel_values.to(self.model.device, self.model.dtype)
        given = {}
        if self.model.NEEDS_PART and body_part is not None:
            given["body_parts"] = torch.tensor([BODY_PARTS.index(body_part)], device=self.model.device)
        with torch.no_grad():
            output: StudyOutput = self.model(pixel_values[None].contiguous(), explainable=explainable, **given)
        self._check(output.study_logits, output.view_logits)
        return output

    def _codes(self, output: StudyOutput) -> np.ndarray | None:
        try:
            return view_codes(self.model, output.views).cpu().numpy()  # type: ignore[arg-type]
        except CheckpointError:  # someone else's network may have none
            return None

    def _check(self, *logits: torch.Tensor) -> None:
        if not all(torch.isfinite(values).all() for values in logits):
            raise CheckpointError(
                f"{self.checkpoint} answers with values that are no numbers; its weights are damaged"
            )
