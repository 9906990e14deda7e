"""`StudyController`: what the tab "Read a study" does, apart from its components."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from secrets import token_hex
from typing import Any

from ..errors import CheckpointError
from ..inference import StudyPrediction, StudyPredictor
from ..inference.prediction import DISCLAIMER
from ..inference.report import ReportContext, report_pdf
from . import templates
from .examples import find_example
from .reading import Progress, StudyReading, read_study
from .result import (
    answer_html,
    credit_text,
    details_html,
    is_withheld,
    known_point,
    operating_point_choices,
    performance_html,
    similar_html,
    warn_if_known,
)
from .state import DEFAULT, FOR_EXAMPLES, AppContext, CheckpointKey
from .viewer import viewer_html

_MIME_TYPES = {"pdf": "application/pdf", "json": "application/json"}


@dataclass(frozen=True)
class StudyRequest:
    """A request to read one study."""

    files: tuple[str, ...]  # paths of the views on the server
    checkpoint: CheckpointKey = DEFAULT
    body_part: str | None = None  # given by the visitor; None if the model should find it
    operating_point: str | None = None  # None for the default of the checkpoint
    method: str | None = None  # of the heatmaps; None for the default, Grad-CAM
    show_anyway: bool = False  # show the answer even if the study is out of distribution


@dataclass(frozen=True)
class StudyResult:
    """A request with its answer, small enough to keep for every visitor."""

    request: StudyRequest  # with the operating point that was used
    study: StudyPrediction  # without heatmaps
    problems: tuple[str, ...] = ()  # sentences about files that could not be read

    @property
    def withheld(self) -> bool:
        """Whether the answer is not shown."""
        return is_withheld(self.study, self.request.show_anyway)


@dataclass(frozen=True)
class StudyPage:
    """What the page shows for a study."""

    answer: str
    viewer: str = ""  # empty without views
    result: StudyResult | None = None  # None without an answer
    details: str = ""  # how sure the answer is; empty without an answer
    points: list[tuple[str, str]] | None = None  # operating points; None if no checkpoint was loaded
    point: str | None = None  # the operating point in use
    anyway_text: str | None = None  # text of the button that shows what was left out; None for no button
    takes_body_part: bool = False  # whether a body part can be given


def _with_errors(method: Callable[..., str]) -> Callable[..., str]:
    """Decorator that shows errors as HTML instead of raising them."""

    @wraps(method)
    def answer(*args: Any, **kwargs: Any) -> str:
        try:
            return method(*args, **kwargs)
        except (CheckpointError, ValueError) as error:  # ValueError: a body part that the checkpoint does not allow
            return templates.error_html(str(error))

    return answer


class StudyController:
    """Answers what visitors ask about one study. Thread-safe."""

    def __init__(self, context: AppContext) -> None:
        self.context = context

    def choose_checkpoint(self, files: tuple[str, ...], chosen: CheckpointKey) -> CheckpointKey:
        """Returns the chosen checkpoint; if none was chosen and a phantom example is open, that of the examples."""
        example = find_example(files) if chosen == DEFAULT else None
        return FOR_EXAMPLES if example is not None and example.source is None else chosen

    def open(self, request: StudyRequest, progress: Progress | None = None) -> StudyPage:
        """Reads a study. Errors are shown on the page."""
        if not request.files:
            return StudyPage(answer_html(None))
        points = point = None
        try:
            predictor = self.context.checkpoints.get(*request.checkpoint)
            points = operating_point_choices(predictor)
            point, _ = predictor.find_threshold(known_point(predictor, request.operating_point))
            reading = self._read(predictor, request, progress)
        except (CheckpointError, ValueError) as error:  # ValueError: a body part that the checkpoint does not allow
            return StudyPage(templates.error_html(str(error)), points=points, point=point)
        example, anyway, study = find_example(request.files), request.show_anyway, reading.study
        if study is not None and example is None:
            study = warn_if_known(predictor, study)
        radiographs, problems = reading.radiographs, reading.problems
        answer = answer_html(study, problems, radiographs=radiographs, example=example, show_anyway=anyway)
        if study is None:
            return StudyPage(answer, points=points, point=point)
        viewer = viewer_html(study, radiographs, show_anyway=anyway, credit=credit_text(example))
        kept = replace(study, views=[replace(view, heatmap=None, pixels=None) for view in study.views])
        result = StudyResult(replace(request, operating_point=point), kept, tuple(problems))
        anyway_text = templates.SHOW_UNUSUAL if reading.n_unusual else None
        if result.withheld:
            anyway_text = templates.SHOW_ANYWAY
        return StudyPage(
            answer,
            viewer,
            result,
            "" if result.withheld else details_html(study),
            points,
            point,
            anyway_text=anyway_text,
            takes_body_part=bool(study.body_part_probabilities) or predictor.model.NEEDS_PART,
        )

    def _read(
        self, predictor: StudyPredictor, request: StudyRequest, progress: Progress | None = None
    ) -> StudyReading:
        return read_study(
            predictor, self.context.reader, request.files, request.body_part, progress=progress,
            skip_unusual=not request.show_anyway, method=request.method,
            operating_point=known_point(predictor, request.operating_point),
        )  # fmt: skip

    @_with_errors
    def performance(self, result: StudyResult | None, prevalence: float) -> str:
        """HTML of the measured performance of the operating point in use."""
        if result is None or result.withheld:
            return ""
        predictor = self.context.checkpoints.get(*result.request.checkpoint)
        return performance_html(_report_context(predictor, result, prevalence).performance, prevalence)

    @_with_errors
    def similar(self, result: StudyResult | None, *, same_part: bool) -> str:
        """HTML of the most similar cases."""
        if result is None:
            return templates.note_html(templates.NO_SIMILAR_YET)
        if result.withheld:
            return templates.note_html(templates.NOT_SEARCHED)
        predictor = self.context.checkpoints.get(*result.request.checkpoint)
        return similar_html(predictor, result.study, same_part=same_part)

    @_with_errors
    def report(self, kind: str, result: StudyResult | None, prevalence: float) -> str:
        """HTML with a report to download, "json" or "pdf". For a PDF the views are read again."""
        if result is None:
            return templates.note_html(templates.NO_REPORT)
        request = result.request
        predictor = self.context.checkpoints.get(*request.checkpoint)
        context = _report_context(predictor, result, prevalence)
        if kind == "json":
            return _download_html(kind, _json_report(result, context))
        reading = self._read(predictor, request)
        if reading.study is None or len(reading.study.views) < len(result.study.views):
            return templates.error_html(" ".join(reading.problems))
        return _download_html(kind, report_pdf(reading.study, reading.radiographs, context))


def _report_context(predictor: StudyPredictor, result: StudyResult, prevalence: float) -> ReportContext:
    study = result.study
    return ReportContext(
        made=datetime.now(UTC),
        weights_sha256=predictor.weights_sha256,
        performance=predictor.measured_performance.get(study.operating_point, study.threshold, study.body_part),
        prevalence=prevalence,
        left_out=result.problems,
        withheld=result.withheld,
    )


def _json_report(result: StudyResult, context: ReportContext) -> bytes:
    performance, measured = context.performance, None
    if performance is not None:
        measured = {
            **asdict(performance),
            "sensitivity": performance.sensitivity,
            "specificity": performance.specificity,
            "prevalence": context.prevalence,
            "predictive_values": performance.predictive_values(context.prevalence),
        }
    report = {
        "made": context.made.isoformat(timespec="seconds"),
        "disclaimer": DISCLAIMER,
        "checkpoint": result.study.checkpoint,
        "weights_sha256": context.weights_sha256,
        "withheld": context.withheld,
        "study": None if context.withheld else result.study.to_dict(),
        "left_out": list(result.problems),
        "measured": measured,
    }
    return (json.dumps(report, indent=2, allow_nan=False) + "\n").encode()


def _download_html(kind: str, content: bytes) -> str:
    """A link to a file inside the page, which the browser downloads at once (`static/download.js`)."""
    return templates.render(
        "download",
        token=token_hex(8),
        name=f"study-report.{kind}",
        mime_type=_MIME_TYPES[kind],
        content=base64.b64encode(content).decode(),
        size=max(1, round(len(content) / 1024)),
    )


def study_progress_html(files: Sequence[str], read: Sequence[str], total: int, *, opened: bool = False) -> str:
    """Progress of reading a study: its files, names of the views that were read, and the number of views.

    Views in ZIP files are listed once they are read. `opened` tells the script that the old study is closed.
    """
    names = [Path(file).name for file in files]
    waiting = [name for name in names if name not in read and not name.lower().endswith(".zip")][: total - len(read)]
    return templates.render("progress", read=read, waiting=waiting, total=total, opened=opened)
