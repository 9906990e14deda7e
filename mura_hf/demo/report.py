"""The open study as files that the page holds: JSON, and a PDF of one page."""

import base64
import json
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from secrets import token_hex

from ..inference import StudyPredictor
from ..inference.report_pdf import DISCLAIMER, ReportContext
from .answer import is_withheld
from .reading_state import Reading

_KINDS = {"pdf": "application/pdf", "json": "application/json"}


def report_context(predictor: StudyPredictor, reading: Reading, prevalence: float) -> ReportContext:
    """What stands beside the answer on a report made now."""
    study = reading.study
    return ReportContext(
        made=datetime.now(UTC),
        weights_sha256=predictor.weights_sha256,
        achievement=predictor.achievements.get(study.operating_point, study.threshold, study.body_part),
        prevalence=prevalence,
        left_out=reading.problems,
        withheld=is_withheld(study, reading.question.anyway),
    )


def json_report(predictor: StudyPredictor, reading: Reading, prevalence: float) -> bytes:
    """The answer with its numbers and what stands beside it; without the answer where that is withheld."""
    context = report_context(predictor, reading, prevalence)
    achieved = context.achievement
    report = {
        "made": context.made.isoformat(timespec="seconds"),
        "disclaimer": DISCLAIMER,
        "checkpoint": reading.study.checkpoint,
        "weights_sha256": context.weights_sha256,
        "withheld": context.withheld,
        "study": None if context.withheld else reading.study.to_dict(),
        "left_out": list(reading.problems),
        "measured": None
        if achieved is None
        else {
            **asdict(achieved),
            "sensitivity": achieved.sensitivity,
            "specificity": achieved.specificity,
            "prevalence": prevalence,
            "predictive_values": achieved.predictive_values(prevalence),
        },
    }
    return (json.dumps(report, indent=2, allow_nan=False) + "\n").encode()


def download_html(kind: str, content: bytes) -> str:
    """A link to a report, which the browser fetches at once (`static/download.js`).

    Args:
        kind: "pdf" or "json".
        content: Of the file.
    """
    name = f"study-report.{kind}"
    size = max(1, round(len(content) / 1024))
    return (
        f'<mura-download data-file="{token_hex(8)}" data-name="{escape(name)}" data-type="{_KINDS[kind]}" '
        f'data-base64="{base64.b64encode(content).decode()}"><a href="#">{escape(name)}</a> ({size} KB) is ready and '
        "was sent to your downloads. The server keeps no copy.</mura-download>"
    )
