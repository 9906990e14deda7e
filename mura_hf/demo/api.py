"""Named endpoints for programs. `gradio_client` calls them with files of the caller's machine."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import MuraError
from ..inference import StudyPredictor, sort_rows
from . import templates
from .reading import read_files, read_study
from .result import similar_cases
from .state import AppContext, CheckpointKey
from .uploads import CALL
from .worklist_controller import gather_studies, read_worklist

_MAX_SIMILAR = 50


def add_endpoints(context: AppContext) -> None:
    """Adds `/predict_study`, `/similar` and `/worklist` to the Blocks that are being built."""

    def predict_study(
        views: list[gr.FileData],
        request: gr.Request,
        checkpoint: str = "",
        revision: str = "",
        abnormal_label: str = "",
        body_part: str | None = None,
        operating_point: str | None = None,
        heatmaps: bool = False,
    ) -> dict[str, Any]:
        """Predicts whether a study is abnormal: probability, label, band, each view with its probability and weight,
        and warnings. Not a medical device.

        Args:
            views: Files of one study: PNG, JPEG, TIFF, BMP, WebP or DICOM, or one ZIP file that contains them.
            checkpoint: Hub name or name of a bundled checkpoint; the default checkpoint if empty.
            revision: Revision on the Hub.
            abnormal_label: The label that means abnormal, if the labels of the checkpoint do not say so.
            body_part: finger, hand, wrist, forearm, elbow, humerus or shoulder; None to let the model find it.
            operating_point: Name of one of the checkpoint's thresholds; the default one if None.
            heatmaps: Whether to also find the regions of model attention.

        Returns:
            `StudyPrediction.to_dict()`, and `left_out`: a sentence about each file that could not be read.
        """
        key = (checkpoint, revision, abnormal_label)
        with _call(context, request, views, key, body_part, operating_point) as (predictor, files):
            reading = read_study(
                predictor, context.reader, files, body_part or None,
                operating_point=operating_point or None, heatmaps=heatmaps,
            )  # fmt: skip
            if reading.study is None:
                raise MuraError(" ".join(reading.problems) or templates.NO_FILE)
            return {**reading.study.to_dict(), "left_out": reading.problems}

    def similar(
        views: list[gr.FileData],
        request: gr.Request,
        k: int = 5,
        body_part: str | None = None,
        checkpoint: str = "",
        revision: str = "",
        abnormal_label: str = "",
    ) -> list[dict[str, Any]]:
        """Finds the studies in the index of a checkpoint that look most like the given one, nearest first.

        Args:
            views: As for /predict_study.
            k: Number of studies, at most 50.
            body_part: Restricts the search to this body part.
            checkpoint: As for /predict_study.
            revision: As for /predict_study.
            abnormal_label: As for /predict_study.

        Returns:
            For each study: study_id, view, label, body_part, finding, distance, nearest_to (the index of the given
            view that is nearest), thumbnail (a data URL, None without pictures) and the credit to show beside it.
        """
        key = (checkpoint, revision, abnormal_label)
        with _call(context, request, views, key, body_part) as (predictor, files):
            if not isinstance(k, int) or not 1 <= k <= _MAX_SIMILAR:
                raise MuraError(templates.BAD_K.format(k=k, most=_MAX_SIMILAR))
            _, radiographs, problems = read_files(context.reader, files)
            if not radiographs:
                raise MuraError(" ".join(problems) or templates.NO_FILE)
            found = predictor.similar(radiographs, k, body_part or None)
            assert predictor.index is not None  # else the search fails
            return similar_cases(predictor.index, found)

    def worklist(
        archive: gr.FileData,
        request: gr.Request,
        checkpoint: str = "",
        revision: str = "",
        abnormal_label: str = "",
        operating_point: str | None = None,
    ) -> list[dict[str, Any]]:
        """Reads many studies, most likely abnormal first.

        Args:
            archive: ZIP file in which each folder with pictures is one study.
            checkpoint: As for /predict_study.
            revision: As for /predict_study.
            abnormal_label: As for /predict_study.
            operating_point: As for /predict_study.

        Returns:
            One row for each study: `WorklistRow.to_dict()`.
        """
        key = (checkpoint, revision, abnormal_label)
        with _call(context, request, [archive], key, operating_point) as (predictor, files):
            studies = gather_studies(Path(files[0]), context.limits, must_be_zip=True)
            *_, last = read_worklist(
                predictor, studies, context.reader,
                operating_point=operating_point or None, max_seconds=context.limits.seconds,
            )  # fmt: skip
            if len(last.rows) < last.total:
                raise MuraError(templates.OUT_OF_TIME.format(done=len(last.rows), total=last.total))
            return [row.to_dict() for row in sort_rows(last.rows)]

    for endpoint in (predict_study, similar):
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_id="reading")
    gr.api(worklist, api_name="worklist", concurrency_id="worklists", concurrency_limit=1)


@contextmanager
def _call(
    context: AppContext, request: gr.Request, views: Sequence[Any], key: CheckpointKey, *texts: Any
) -> Iterator[tuple[StudyPredictor, list[str]]]:
    """Yields the predictor and the paths of the files, which are held while the call runs and removed afterwards.

    Raises:
        gr.Error: If a file was not uploaded, if an argument is no string, or with the message of an error inside.
    """
    call = f"{CALL}{uuid.uuid4().hex}"
    files = [str(view.get("path", "") if isinstance(view, dict) else view) for view in views or []]
    context.uploads.hold(call, files)
    try:
        if not all(context.uploads.may_use(request.session_hash, file) for file in files):
            raise MuraError(templates.NOT_UPLOADED)
        for text in (*key, *texts):  # programs can send anything
            if text is not None and not isinstance(text, str):
                raise MuraError(templates.NO_STRING.format(text))
        yield context.checkpoints.get(*key), files
    except (MuraError, ValueError) as error:  # ValueError: an unknown body part or operating point
        raise gr.Error(str(error), print_exception=False) from None
    finally:
        context.uploads.let_go(request.session_hash or call, files)  # held since the call arrived
        context.uploads.release(call)
