"""`StudyPredictor`: from the files of one study to an explained prediction."""

import os
import shutil
import warnings as python_warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file

from ..errors import CheckpointError, HubError, first_line
from ..explain import AUTO, Heatmaps, check_method
from ..models import (
    BODY_PARTS,
    GOLDEN_FILE,
    Golden,
    MuraClassifier,
    MuraImageProcessor,
    StudyOutput,
    find_body_part,
    read_golden,
)
from ..models.golden_mura import digest_weights
from ..radiographs import Radiograph
from ..retrieval import (
    FOLDER,
    INDEX_FILES,
    OOD_FILE,
    Neighbour,
    OODDetector,
    OODResult,
    RetrievalIndex,
    View,
    feature_means,
    view_codes,
)
from .external_model import ExternalProcessor
from .inputs import check_device, check_dtype, list_views, read_view
from .loading import (
    DETECTOR_IS_MISSING,
    LOCAL_CHECKPOINTS,
    NO_DETECTOR,
    UNREADABLE,
    CheckpointLimits,
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
from .postprocessing import (
    compute_heatmaps,
    find_conflicts,
    make_prediction,
    view_part_probabilities,
    warn_if_unusual,
)
from .prediction import PHANTOM_WARNING, StudyPrediction
from .runtimes import check_runtime, compile_backbones, record_examples

_EVALUATION = "evaluation.json"
_RECORDS = ("README.md", _EVALUATION, "training.json", GOLDEN_FILE)
_WEIGHTS = "model*.safetensors*"


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
        self.runtime = "torch"
        self.warnings = [PHANTOM_WARNING] * model.config.trained_on_phantoms + list(warnings)
        if ood_detector is not None:
            model.config.has_ood_detector = True
        elif model.config.has_ood_detector and not any(text.startswith(NO_DETECTOR) for text in warnings):
            self.warnings.append(DETECTOR_IS_MISSING)
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
        limits: CheckpointLimits = LOCAL_CHECKPOINTS,
        runtime: str = "auto",
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
            limits: What the checkpoint may ask for, checked before anything is built.
            runtime: What computes feature maps: "torch", "onnxruntime", "openvino", or "auto" for the fastest one that
                is installed. Other runtimes than PyTorch need a CPU and float32. The first use of a checkpoint
                compiles it, which takes some seconds; the result is cached.

        Raises:
            CheckpointError: If the checkpoint cannot be found, exceeds the limits, does not classify normal against
                abnormal, does not say which label is which, or its files do not fit each other; or if it cannot run in
                the runtime, unless that is "auto".
            ImportError: If the runtime is not installed (extra `fast`).
            ValueError: If this machine has no such device, or the dtype or the runtime does not exist or does not fit
                the device.
        """
        device, dtype, runtime = check_device(device), check_dtype(dtype), check_runtime(runtime)
        source = find_source(name_or_path, revision)
        try:
            model, processor, warnings = load_checkpoint(source, dtype, abnormal_label, limits)
            model = model.to(device, memory_format=torch.channels_last)
            detector, problem = load_ood_detector(source)
            warnings += [] if problem is None else [problem]
            predictor = cls(model, processor, source.name, warnings, detector, source)
            golden, file = None, find_file(source, GOLDEN_FILE)
            try:
                golden = None if file is None else read_golden(file)
            except ValueError:
                predictor.warnings.append(UNREADABLE)
            with record_examples(model) as examples:
                predictor._test_run(golden)
        except CheckpointError:
            raise
        except Exception as error:  # checkpoints are untrusted and may fail in any way
            raise CheckpointError(
                f"{source.location} cannot be loaded: {first_line(error)}. Check the files of the checkpoint, and the "
                "network."
            ) from error
        predictor.runtime = compile_backbones(examples, runtime)
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
        views: View | Iterable[View],
        *,
        body_part: str | None = None,
        operating_point: str | None = None,
        names: Sequence[str] | None = None,
        heatmaps: bool = True,
        method: str | None = None,
    ) -> StudyPrediction:
        """Classifies one study, all views in one batch.

        Args:
            views: Paths, file contents, PIL images, arrays (uint8, or float in [0, 1]) or `Radiograph`s; or a single
                one of these.
            body_part: One of the seven body parts, if known, such as "wrist" or "XR_WRIST"; predicted by the model if
                None.
            operating_point: Name of a threshold in the checkpoint's config; its default one if None.
            names: Names of the views; their file names if None.
            heatmaps: Whether to compute heatmaps and regions.
            method: Heatmap method, one of `mura_hf.explain.METHODS`; Grad-CAM by default.

        Raises:
            RadiographError: If a view cannot be read. The message names it.
            CheckpointError: If the output of the model is not finite.
            ValueError: If there is no view, or one of another kind, the body part, operating point or method is
                unknown, or a checkpoint with one model per body part has none for this one or cannot predict it.
        """
        views, names = list_views(views, names)
        body_part = None if body_part is None else find_body_part(body_part)
        method = check_method(AUTO if method is None else method)
        point, threshold = self.find_threshold(operating_point)
        radiographs = [read_view(view, name, self.processor) for view, name in zip(views, names, strict=True)]
        pixel_values = self.pixel_values(radiographs)
        output = self._run(pixel_values, body_part, explainable=heatmaps)

        warnings = [*self.warnings, *(warning for radiograph in radiographs for warning in radiograph.warnings)]
        ood_result: OODResult | None = None
        if self.ood_detector is not None and output.views is not None:
            ood_result = self.ood_detector.detect(feature_means(output.views).cpu().numpy())
            warnings += warn_if_unusual(names, ood_result)
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
            keep_pixels=heatmaps,
            measured=self.measured_performance,
            operating_point=point,
            checkpoint=self.checkpoint,
            warnings=warnings,
            codes=codes,
        )

    def predict_many(self, studies: Iterable[View | Iterable[View]], **options: Any) -> Iterator[StudyPrediction]:
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
        study: StudyPrediction | View | Iterable[View],
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
        return self.model.config.find_threshold(operating_point)

    @cached_property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the weights, see `digest_weights`; None for a model made in memory."""
        folder = None if self._source is None else find_weights(self._source)
        return None if folder is None else digest_weights(folder)

    @cached_property
    def measured_performance(self) -> MeasuredPerformance:
        """Measured performance of the operating points and bands, from the checkpoint's `evaluation.json`."""
        file = None if self._source is None else find_file(self._source, _EVALUATION)
        return MeasuredPerformance() if file is None else read_measured_performance(file, self.weights_sha256)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Saves all that makes a prediction, so that `from_pretrained(save_directory)` gives equal ones.

        That is the model with calibration and operating points, the image processor and the out-of-distribution
        detector. Of a predictor that was loaded, the index of studies, the card and the records are copied too
        (`evaluation.json`, `training.json`, golden check), and weights keep the dtype of their file. If the weights
        were changed since they were loaded, all these and the detector belong to other weights; they are left out,
        with a warning.

        Args:
            save_directory: A new or empty folder, or one with a checkpoint, which is replaced.

        Raises:
            CheckpointError: If the folder holds something else, or the checkpoint that this predictor was loaded from.
        """
        folder = Path(save_directory)
        original = None if self._source is None else find_weights(self._source)
        if original is not None and folder.resolve() == original.resolve():
            raise CheckpointError(f"{folder} holds the checkpoint that is to be saved; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} is not empty and holds no checkpoint; choose a new folder")
        for name in (OOD_FILE, *_RECORDS):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        if original is not None:
            assert self._source is not None
            if not _have_equal_weights(folder, original):
                python_warnings.warn(
                    f"the weights are no longer those of {self.checkpoint}, so its out-of-distribution detector, "
                    "index, card and records were not saved; scripts/calibrate.py, scripts/build_index.py and "
                    "scripts/evaluate.py make new ones",
                    stacklevel=2,
                )
                return
            for file in folder.glob(_WEIGHTS):
                file.unlink()
            kept = {name: find_file(self._source, name) for name in (*_RECORDS, *INDEX_FILES)}
            kept |= {file.name: file for file in original.glob(_WEIGHTS)}
            kept |= {f"{FOLDER}/{file.name}": file for file in original.glob(f"{FOLDER}/index-*.faiss")}
            for name, found in kept.items():
                if found is not None:
                    (folder / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(found, folder / name)
        if self.ood_detector is not None:
            replace(self.ood_detector, weights=digest_weights(folder)).save(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        revision: str | None = None,
        token: str | None = None,
        commit_message: str = "Upload predictor",
    ) -> str:
        """Pushes what `save_pretrained` saves to the Hub, but an index only if its pictures may be shared.

        Before you publish a checkpoint, prefer `scripts/push_to_hub.py`: it renders the card from the records, adds
        the code that makes the checkpoint work without this package, and checks every file for data of patients.

        Args:
            repo_id: "user/model". The repository is created if needed.
            private: Whether only the owner may see the repository.
            revision: Branch, created if missing; main if None.
            token: Token for the Hub; the one of `hf auth login` if None.
            commit_message: Message of the commit.

        Returns:
            URL of the commit.

        Raises:
            CheckpointError: As `save_pretrained`, or if the index is damaged.
            HubError: If the Hub cannot be reached or refuses, or the repository is public although `private` is set.
        """
        with TemporaryDirectory(prefix="mura_hf_push_") as place:
            self.save_pretrained(place)
            if self.index is None or not self.index.record.may_be_shared:
                shutil.rmtree(Path(place, FOLDER), ignore_errors=True)
            try:
                api = HfApi(token=token)
                repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
                if private and not api.model_info(repo_id).private:
                    raise HubError(f"{repo_id} is public; push with private=False, or make it private on the Hub")
                if revision is not None:
                    api.create_branch(repo_id, branch=revision, exist_ok=True)
                with python_warnings.catch_warnings():
                    # The rows of an index belong to the weights.
                    python_warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
                    return api.upload_folder(
                        repo_id=repo_id,
                        folder_path=place,
                        revision=revision,
                        commit_message=commit_message,
                        delete_patterns=[OOD_FILE, *_RECORDS[1:], f"{FOLDER}/*", _WEIGHTS],
                    ).commit_url
            except HubError:
                raise
            except Exception as error:  # the client raises errors of many libraries
                raise HubError(
                    f"{repo_id} was not pushed: {first_line(error)}. Check the name, the network and `hf auth login`"
                ) from error

    def __repr__(self) -> str:
        config, detector = self.model.config, "without" if self.ood_detector is None else "with"
        return (
            f"StudyPredictor({self.checkpoint!r}, {config.model_type}, {self.model.device}, {self.model.dtype}, "
            f"runtime {self.runtime}, operating points {', '.join(config.operating_points)}, {detector} "
            "out-of-distribution detector)"
        )

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


def _have_equal_weights(saved: Path, original: Path) -> bool:
    """Whether two checkpoints have the same weights, apart from a conversion of the saved ones to another dtype."""
    first, second = (
        {name: values for file in folder.glob("model*.safetensors") for name, values in load_file(file).items()}
        for folder in (saved, original)
    )
    return first.keys() == second.keys() and all(
        torch.equal(values, second[name].to(values.dtype)) for name, values in first.items()
    )
