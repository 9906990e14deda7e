"""Named endpoints for programs: `gradio_client` calls them with files of its own machine."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import MuraError
from ..inference import sort_rows
from .context import ReadingRoom
from .middleware import NOT_UPLOADED
from .reading import read_files, read_study
from .result import is_synthetic
from .uploads import check_zip
from .worklist_controller import gather_studies, read_worklist

_MOST_SIMILAR = 50


def add_endpoints(room: ReadingRoom) -> None:
    """Adds `/predict_study`, `/similar` and `/worklist` to the Blocks that are being built.

    Args:
        room: The server's side.
    """

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
        """Reads the views of one study and answers as `StudyPredictor` does: P(abnormal), label, band, the views with
        their probabilities and weights, and warnings. Not a medical device.

        Args:
            views: Files of one study: PNG, JPEG or DICOM, or one ZIP file of them.
            checkpoint: A Hub name, or one of the package's own; the default one where empty.
            revision: On the Hub.
            abnormal_label: Which label means abnormal, where a checkpoint's words do not tell.
            body_part: finger, hand, wrist, forearm, elbow, humerus or shoulder; found by the model where None.
            operating_point: Name of one of the checkpoint's thresholds; its default where None.
            heatmaps: Whether to find regions of the model's attention too.

        Returns:
            `StudyPrediction.to_dict()`, and `left_out`: a sentence about each file that could not be read.
        """
        with _call(room, request, views) as files:
            _check_texts(checkpoint, revision, abnormal_label, body_part, operating_point)
            predictor = room.checkpoints.get(checkpoint, revision, abnormal_label)
            study, _, problems = read_study(
                predictor,
                room.reader,
                files,
                body_part or None,
                operating_point=operating_point or None,
                heatmaps=heatmaps,
            )
            if study is None:
                raise MuraError(" ".join(problems) or "No file was given.")
            return {**study.to_dict(), "left_out": problems}

    def similar(
        views: list[gr.FileData],
        request: gr.Request,
        k: int = 5,
        body_part: str | None = None,
        checkpoint: str = "",
        revision: str = "",
        abnormal_label: str = "",
    ) -> list[dict[str, Any]]:
        """Finds the studies of the checkpoint's index that look most like one, the nearest first.

        Args:
            views: As for /predict_study.
            k: How many, 50 at most.
            body_part: To find studies of that part only; of any where None.
            checkpoint: As for /predict_study.
            revision: Likewise.
            abnormal_label: Likewise.

        Returns:
            For each: study_id, view, label, body_part, finding, distance, and nearest_to, the place of the given view
            that comes nearest.
        """
        with _call(room, request, views) as files:
            _check_texts(checkpoint, revision, abnormal_label, body_part)
            if not isinstance(k, int) or not 1 <= k <= _MOST_SIMILAR:
                raise MuraError(f"k is {k!r}; give a number from 1 to {_MOST_SIMILAR}.")
            predictor = room.checkpoints.get(checkpoint, revision, abnormal_label)
            _, radiographs, problems = read_files(room.reader, files)
            if not radiographs:
                raise MuraError(" ".join(problems) or "No file was given.")
            found = predictor.similar(radiographs, k, body_part or None)
            hidden = {"thumbnail", "row"}
            if not is_synthetic(predictor.index):
                hidden.add("patient_id")
            return [{name: value for name, value in vars(one).items() if name not in hidden} for one in found]

    def worklist(
        archive: gr.FileData,
        request: gr.Request,
        checkpoint: str = "",
        revision: str = "",
        abnormal_label: str = "",
        operating_point: str | None = None,
    ) -> list[dict[str, Any]]:
        """Reads many studies, the most likely abnormal first.

        Args:
            archive: A ZIP file in which each folder that holds pictures is a study.
            checkpoint: As for /predict_study.
            revision: Likewise.
            abnormal_label: Likewise.
            operating_point: Likewise.

        Returns:
            A row for each study: `WorklistRow.to_dict()`.
        """
        with _call(room, request, [archive]) as files:
            _check_texts(checkpoint, revision, abnormal_label, operating_point)
            predictor = room.checkpoints.get(checkpoint, revision, abnormal_label)
            check_zip(Path(files[0]))  # a CSV file would name files of the server
            studies = gather_studies(Path(files[0]), room.limits)
            *_, last = read_worklist(
                predictor, studies, room.reader,
                operating_point=operating_point or None, most_seconds=room.limits.seconds,
            )  # fmt: skip
            if len(last.rows) < last.total:
                raise MuraError(
                    f"The time for one worklist ended after {len(last.rows):,} of {last.total:,} studies; give it in "
                    "parts."
                )
            return [row.to_dict() for row in sort_rows(last.rows)]

    for endpoint in (predict_study, similar):
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_id="reading")
    gr.api(worklist, api_name="worklist", concurrency_id="worklists", concurrency_limit=1)


def _check_texts(*values: Any) -> None:
    """Programs may send anything as an argument.

    Raises:
        MuraError: If one is no text.
    """
    for value in values:
        if value is not None and not isinstance(value, str):
            raise MuraError(f"An argument is {value!r}, which is no text; give names in quotes.")


@contextmanager
def _call(room: ReadingRoom, request: gr.Request, views: Sequence[Any]) -> Iterator[list[str]]:
    """While a program's question is answered; gives its files' paths, and removes them when it ends.

    Raises:
        gr.Error: If a file did not come by upload, and for what goes wrong inside, in words.
    """
    call = f"call {uuid.uuid4().hex}"
    files = [str(view.get("path", "") if isinstance(view, dict) else view) for view in views or []]
    room.files.hold(call, files)
    try:
        if not all(map(room.files.contains, files)):
            raise MuraError(NOT_UPLOADED)
        yield files
    except (MuraError, ValueError) as error:  # the latter: an unknown part or operating point
        raise gr.Error(str(error), print_exception=False) from None
    finally:
        room.files.let_go(request.session_hash or call, files)  # held since the question came
        room.files.release(call)
