"""Summaries of measurements in words, and the former names of fields in `evaluation.json`."""

from typing import Any

from ..inference import PHANTOM_WARNING
from ..metrics import MIN_CLUSTERS, MIN_STUDIES
from ..models import LABELS, MuraBaseConfig
from ..retrieval import RetrievalIndex

_SIGNIFICANT = 0.05
_EQUAL = "it gives all studies the same probability"

FORMER_NAMES = {
    "comparison": "against",
    "insertion_deletion": "erasing",
    "ood_detection": "refusal",
    "pointing_game": "pointing",
    "randomization": "explanations",
    "sensitivity": "following",
}
"""Field of `evaluation.json` -> its name in the first edition. Files have both for now."""


def _interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    if low is None or high is None:
        return "(too few for an interval)"
    return f"({low:+.3f} to {high:+.3f})" if signed else f"({low:.3f}-{high:.3f})"


def with_old_names(report: dict[str, Any]) -> dict[str, Any]:
    """Returns an evaluation whose renamed fields are present under both names, whichever name it has."""
    report = dict(report)
    for name, former in FORMER_NAMES.items():
        if name in report:
            report[former] = report[name]
        elif former in report:
            report[name] = report[former]
    return report


def describe_calibration(record: dict[str, Any]) -> list[str]:
    """Describes the result of `calibrate_checkpoint`."""
    if "kept_from" in record:
        return [
            f"Not calibrated on calib: {record['not_calibrated']}. Calibration, operating points and bands are those "
            f"of its start, {record['kept_from']}; they promise nothing for the new weights."
        ]
    points = ", ".join(f"{name} {value:g}" for name, value in record["operating_points"].items())
    if "not_calibrated" in record:
        lines = [f"Not calibrated on calib: {record['not_calibrated']}."]
    else:
        before, after = record["before"], record["held_out"]
        lines = [
            f"Calibrated on {record['n']} studies of calib, {record['n_abnormal']} of them abnormal: temperature "
            f"{record['temperature']:g}, study slope {record['study_slope']:g}, intercept "
            f"{record['study_intercept']:g}.",
            f"On patients whom it was not fitted to, the Brier score is {before['brier']:.4f} before and "
            f"{after['brier']:.4f} after calibration, the calibration error {before['ece']:.4f} and "
            f"{after['ece']:.4f}.",
        ]
    default = f"The default stays {MuraBaseConfig(operating_points=record['operating_points']).find_threshold()[0]}"
    if "no_operating_points" in record:
        reason = record["no_operating_points"]
        return [*lines, f"No operating points but {points}, from calib: {reason}. {default}, without bands."]
    lines.append(f"Operating points (abnormal strictly above): {points}.")
    if record.get("default_operating_point") is None:
        reason = record.get("no_screening_point", "none was chosen")
        return [*lines, f"{default}, and there are no new bands: {reason}."]
    lines.append(f"Default: {record['default_operating_point']}.")
    if record["bands"] is None:
        return [*lines, "No bands: too few studies."]
    bands = describe_bands({"limits": record["bands"], "groups": {"overall": record["bands_on_calib"]}})
    return [*lines, f"{bands} These are the studies of calib that the cut points were chosen on."]


def describe_bands(record: dict[str, Any]) -> str:
    """Describes the field `bands` of an evaluation."""
    rows = record["groups"]["overall"]
    words = [
        f"{name} {row['figures']['share']:.3f} {_interval(*row['intervals'].get('share', (None, None)))} of the "
        f"studies, {row['n_abnormal']} of {row['n']} abnormal"
        for name, row in rows.items()
    ]
    limits = record["limits"]
    return f"Bands (low up to {limits['low']:g}, suspected above {limits['suspected']:g}): {'; '.join(words)}."


def describe_ood_detector(record: dict[str, Any]) -> list[str]:
    """Describes the result of `fit_ood_detector`."""
    groups = ", ".join(f"{name} {count}" for name, count in record["groups"].items())
    outside = f" Out of scope: {' and '.join(record['outside'])}." if record["outside"] else ""
    return [
        f"Out-of-distribution detector: fitted to {record['n_views']} views of train ({groups}), threshold from "
        f"{record['n']} views of calib for {100 * record['alarms']:g} % false alarms.{outside}"
    ]


def describe_region_head(record: dict[str, Any]) -> str:
    """Describes the result of `fit_region_head`."""
    counts = ", ".join(f"{name} {count}" for name, count in record["regions"].items())
    return f"Region of the body: fitted to views of train ({counts}), {record['accuracy']:.3f} of which it gets right."


def describe_evaluation(report: dict[str, Any]) -> list[str]:
    """Describes the most important figures of `evaluate_checkpoint` or of an `evaluation.json`. The card has all."""
    report = with_old_names(report)
    lines = []
    regions = {f"shows {region}": row for region, row in report.get("region", {}).items()}
    for group, row in (report["study"] | regions).items():
        metrics = ", ".join(_metric(row, name) for name in ("auroc", "kappa"))
        lines.append(f"{group:16s} {row['figures']['n']:5d} studies, {metrics}")
    for name, point in report["operating_points"].items():
        (rejections, alarms), (misses, hits) = point["groups"]["overall"]["confusion"]
        lines.append(
            f"{name}, above {point['threshold']:g}: flags {hits} of {hits + misses} abnormal studies and {alarms} of "
            f"{alarms + rejections} normal ones"
        )
    if "bands" in report:
        lines.append(describe_bands(report["bands"]))
    if "ood_detection" in report:
        alarms = report["ood_detection"]["alarms"]
        lines.append(
            f"Out of distribution: flags {alarms['refused']:.3f} of {alarms['n']} held-out studies "
            f"{_interval(alarms['low'], alarms['high'])}"
        )
    if "comparison" in report:
        other, row = report["comparison"], report["comparison"]["study"]["auroc"]
        lines.append(
            f"AUROC of the studies minus that of {other['checkpoint']}: {row['difference']:+.3f} "
            f"{_interval(row['low'], row['high'], signed=True)}"
            + (f", on {other['n']} studies that are new to both" if "n" in other else "")
        )
    return [*lines, PHANTOM_WARNING] if report["trained_on_phantoms"] else lines


def describe_verdict(report: dict[str, Any]) -> str:
    """Says in plain words whether a checkpoint is better than the one that it started from, or than guessing.

    Args:
        report: Result of `evaluate_checkpoint` or `compare_checkpoints`, or the content of an `evaluation.json`.
    """
    report = with_old_names(report)
    overall, compared = report["study"]["overall"], report.get("comparison", {})
    auroc, from_start = overall["figures"]["auroc"], compared.get("is_start", False)
    other = f"its start, {compared['checkpoint']}" if from_start else "guessing"
    instead = f"AUROC {_number(auroc)}" + (f" instead of {_number(compared['auroc'])}" if from_start else "")
    low, high = overall["intervals"].get("auroc", (None, None))
    judged = compared["study"].get("auroc", {}) if from_start else {"low": low, "high": high}
    if auroc is None or report.get("too_few") or judged.get("low") is None:
        reason = (report.get("too_few") or "").removeprefix("too few: ") or _why_no_interval(overall, from_start)
        if reason == _EQUAL:
            return f"Not shown to be better than {other}: {reason}. Here: {instead}."
        return f"Too few studies to tell whether it is better than {other}: {reason}. Here: {instead}."
    low, high = judged["low"], judged["high"]
    if from_start:
        middle, p_value = 0.0, judged.get("p_value")  # missing in old evaluations
        figures = f"a difference of {judged['difference']:+.3f} (95 % interval {low:+.3f} to {high:+.3f}"
        figures += ")" if p_value is None else f", p = {p_value:.4f})"
        if p_value is not None and p_value > _SIGNIFICANT:  # the interval and the test may disagree
            low, high = min(low, middle), max(high, middle)
    else:
        middle, figures = 0.5, f"95 % interval {low:.3f} to {high:.3f}; guessing gives .5"
    verdict = "Better" if low > middle else "Worse" if high < middle else "Not shown to be better"
    seen = f" Its start was trained on {compared['known']} of these patients." if compared.get("known") else ""
    return f"{verdict} than {other}, on {overall['figures']['n']} held-out studies: {instead}, {figures}.{seen}"


def _why_no_interval(overall: dict[str, Any], from_start: bool) -> str:
    """Says why the AUROC of all studies, or its difference from the start's, has no interval."""
    figures = overall["figures"]
    if figures["auroc"] is None:
        return "one class only"
    if overall["n_patients"] < MIN_CLUSTERS:
        return f"fewer than {MIN_CLUSTERS} patients"
    if min(figures["n_abnormal"], figures["n"] - figures["n_abnormal"]) < MIN_STUDIES:
        return f"fewer than {MIN_STUDIES} studies of a class"
    if figures["auroc"] == 0.5 and not from_start:
        return _EQUAL
    return "one patient has all studies of a class" if not from_start else "the difference has no interval"


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _metric(row: dict[str, Any], name: str) -> str:
    value, interval = row["figures"][name], row["intervals"].get(name)
    if value is None:
        return f"{name} not defined"
    interval = interval or (None, None)
    return f"{name} {value:.3f} {_interval(*interval)}"


def describe_shortcuts(record: dict[str, Any]) -> list[str]:
    """Describes the record of `audit_shortcuts`."""
    rows = {f"{factor} alone": row for factor, row in record.get("counterfactuals", record.get("twins", {})).items()}
    rows |= {f"{factor} painted over": row for factor, row in record.get("masking", {}).items()}
    lines = []
    for factor, row in rows.items():
        line = (
            f"{factor.replace('_', ' ').capitalize()} changes the probability by {row['mean']:+.3f} "
            f"{_interval(row['low'], row['high'], signed=True)} on average in {row['n']} studies"
        )
        if "control" in row:
            shifts = (f"{name} {row[name]['shift']['mean']:+.3f}" for name in LABELS if "shift" in row.get(name, {}))
            line += f" (minus that of a control: {', '.join(shifts)})"
        lines.append(f"{line}; flips {row['flips']:.3f}: {row['verdict']}")
    return lines


def describe_index(index: RetrievalIndex) -> list[str]:
    """Describes an index."""
    studies = len(set(index.rows["study_id"].to_pylist()))
    search = "exact search" if index.record.factory is None else f"FAISS {index.record.factory}"
    return [
        f"Index of {studies} studies, {len(index)} views of {index.record.split}: codes of {index.codes.shape[1]} "
        f"numbers in {str(index.codes.dtype).removeprefix('torch.')}, {search}, {index.record.metric}."
    ]


def describe_estimate(report: dict[str, Any]) -> list[str]:
    """Describes the estimate that a dry run of training gives."""
    counts = (f"{split} {row['studies']} studies ({row['views']} views)" for split, row in report["data"].items())
    lines = [f"Data: {', '.join(counts)}."]
    for name, model in report["models"].items():
        lines.append(f"Model {name}: {model['parameters']:,} parameters.")
        lines += [
            f"  {stage['name'].capitalize()}: {stage['epochs']} epochs of {stage['steps']} steps, "
            f"{stage['seconds_a_step']:.2f} s a step."
            for stage in model["stages"]
        ]
    memory = "of the GPU" if report["device"] == "cuda" else "of each process"
    processes = f"{report['processes']} processes" if report["processes"] > 1 else "one process"
    hours, minutes = divmod(round(report["seconds"] / 60), 60)
    return [
        *lines,
        f"Memory: at most {report['peak_megabytes']:,} MB {memory} so far.",
        f"Time: about {f'{hours} h ' if hours else ''}{minutes} min on {report['device']}, {processes}, in "
        f"{report['precision']}, if no stage stops early; the evaluations on dev come on top.",
    ]
