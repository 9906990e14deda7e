"""Measurements in words."""

from typing import Any

from ..inference import PHANTOM_WARNING
from ..retrieval import RetrievalIndex
from .retrieval import PRECISION_AT, VOTERS


def describe_calibration(record: dict[str, Any]) -> list[str]:
    """Lines about what `calibrate_checkpoint` did."""
    before, after = record["before"], record["after"]
    points = ", ".join(f"{name} {value:g}" for name, value in record["operating_points"].items())
    return [
        f"Calibrated on {record['n']} studies of calib, {record['n_abnormal']} abnormal: temperature "
        f"{record['temperature']:g}, study slope {record['study_slope']:g}, intercept {record['study_intercept']:g}.",
        f"There, Brier score {before['brier']:.4f} before and {after['brier']:.4f} after, calibration error "
        f"{before['ece']:.4f} and {after['ece']:.4f}.",
        f"Operating points, abnormal strictly above: {points}.",
    ]


def describe_distribution(record: dict[str, Any]) -> list[str]:
    """Lines about what `learn_distribution` did."""
    groups = ", ".join(f"{name} {count}" for name, count in record["groups"].items())
    strange = f" Strange to it are {' and '.join(record['outside'])}." if record["outside"] else ""
    return [
        f"When not to answer: learned from {record['n_views']} views of train ({groups}), threshold from "
        f"{record['n']} views of calib for {100 * record['alarms']:g} % false alarms.{strange}"
    ]


def describe_evaluation(report: dict[str, Any]) -> list[str]:
    """Lines about what `evaluate_checkpoint` measured."""
    lines = []
    regions = {f"shows {region}": row for region, row in report.get("region", {}).items()}
    for part, row in (report["study"] | regions).items():
        figures, intervals = row["figures"], row["intervals"]
        told = []
        for metric in ("auroc", "kappa"):
            low, high = intervals.get(metric, (None, None))
            told.append(
                f"{metric} not defined" if figures[metric] is None or low is None
                else f"{metric} {figures[metric]:.3f} ({low:.3f}-{high:.3f})"
            )  # fmt: skip
        lines.append(f"{part:16s} {figures['n']:5d} studies, {', '.join(told)}")
    for name, baseline in report.get("baselines", {}).items():
        auroc = baseline["figures"]["auroc"]
        lines.append(
            f"{name.replace('_', ' ')} baseline: AUROC " + ("not defined" if auroc is None else f"{auroc:.3f}")
        )
    for name, point in report["operating_points"].items():
        (rejections, alarms), (misses, hits) = point["groups"]["overall"]["confusion"]
        lines.append(
            f"{name}, above {point['threshold']:g}: flags {hits} of {hits + misses} abnormal studies and {alarms} of "
            f"{alarms + rejections} normal ones"
        )
    for kind, row in report.get("finding", {}).items():
        auroc = row["figures"]["auroc"]
        known = "not defined" if auroc is None else f"{auroc:.3f}"
        lines.append(f"{kind}: {row['figures']['n_abnormal']} studies, AUROC {known}")
    if "refusal" in report:
        alarms, kinds = report["refusal"]["alarms"], report["refusal"]["kinds"]
        least = min(kinds, key=lambda name: kinds[name]["refused"])
        lines.append(
            f"Refuses {alarms['refused']:.3f} of {alarms['n']} held-out studies ({alarms['low']:.3f}-"
            f"{alarms['high']:.3f}), and of {len(kinds)} kinds of strange pictures at least "
            f"{kinds[least]['refused']:.3f} ({least})"
        )
    lines += _describe_heatmaps(report)
    if "retrieval" in report:
        lines += _describe_retrieval(report["retrieval"])
    if "against" in report:
        row = report["against"]["study"]["auroc"]
        lines.append(
            f"AUROC of the studies, minus that of {report['against']['checkpoint']}: {row['difference']:+.3f} "
            f"({row['low']:+.3f} to {row['high']:+.3f})"
        )
    lines += describe_shortcuts(report["shortcuts"])
    if report["trained_on_phantoms"]:
        lines.append(PHANTOM_WARNING)
    return lines


def describe_shortcuts(record: dict[str, Any]) -> list[str]:
    """Lines about what `audit_shortcuts` found."""
    lines = []
    for how, words in (("twins", "{} alone"), ("masking", "{} painted over")):
        for what, row in record.get(how, {}).items():
            line = (
                f"{words.format(what.replace('_', ' ').capitalize())} moves the answer by {row['mean_absolute']:.3f} "
                f"({row['absolute_low']:.3f}-{row['absolute_high']:.3f}) on average, either way, in {row['n']} studies"
            )
            if "control" in row:
                line += (
                    f", {row['excess']:+.3f} ({row['excess_low']:+.3f} to {row['excess_high']:+.3f}) more than the "
                    "same elsewhere"
                )
            lines.append(f"{line}; flips {row['flips']:.3f}: {row['verdict']}")
    if lines:
        lines.append(f"Caught is what moves it by more than {record['limit']:g} for certain, cleared what does not.")
    return lines


def _describe_heatmaps(report: dict[str, Any]) -> list[str]:
    """Lines about whether heatmaps are right."""
    lines = []
    if "pointing" in report:
        row = report["pointing"]["overall"]
        lines.append(
            f"Pointing game: {row['hits']:.3f} ({row['low']:.3f}-{row['high']:.3f}) of {row['n']} views, a constant "
            f"guess {row['constant']:.3f}; overlap of the boxes {row['overlap']['mean']:.3f}, share of the heat "
            f"inside {row['inside']['mean']:.3f}"
        )
    if "projections" in report:
        row = report["projections"]
        lines.append(
            f"Both of two projections point at the finding: {row['both']:.3f} of {row['n']} pairs, "
            f"{row['expected']:.3f} by chance"
        )
    if "following" in report:
        row = report["following"]["overall"]
        lines.append(
            f"Added findings: {row['inside']:.3f} of the heat in the finding's box, {row['inside_without']:.3f} "
            "without the finding"
        )
    if report.get("erasing", {}).get("n"):
        told = (
            f"{name} {row['area']:.3f}, in random order {row['random_area']:.3f}"
            for name, row in report["erasing"].items() if name != "n"
        )  # fmt: skip
        lines.append(f"P(abnormal) along heatmaps: {'; '.join(told)}")
    heat = report["explanations"]
    if heat.get("median_absolute_correlation") is not None:
        lines.append(
            f"Heatmaps against those of shuffled weights: rank correlation {heat['median_absolute_correlation']:.3f} "
            "(median, either way)"
        )
    return lines


def _describe_retrieval(found: dict[str, Any]) -> list[str]:
    told = (
        f"{name.replace('_', ' ')} {row['mean']:.3f} (chance {row['chance']:.3f})"
        for name, row in found["precision"].items()
    )
    lines = [f"Of the {PRECISION_AT} nearest studies of the index, so many have the same: {', '.join(told)}"]
    votes, own = (found["classification"][who]["auroc"] for who in ("neighbours", "classifier"))
    if votes is not None:
        lines.append(f"AUROC of the {VOTERS} nearest studies' labels {votes:.3f}, of the classifier itself {own:.3f}")
    return lines


def describe_index(index: RetrievalIndex) -> list[str]:
    """Lines about an index that was built."""
    studies = len(set(index.rows["study_id"].to_pylist()))
    how = "exact search" if index.record.factory is None else f"FAISS {index.record.factory}"
    return [
        f"Index of {studies} studies, {len(index)} views of {index.record.split}: codes of {index.codes.shape[1]} "
        f"numbers in {str(index.codes.dtype).removeprefix('torch.')}, {how}, {index.record.metric}."
    ]


def describe_dry_run(report: dict[str, Any]) -> list[str]:
    """Lines about what `dry_run` found."""
    counts = (f"{split} {row['studies']} studies ({row['views']} views)" for split, row in report["data"].items())
    lines = [f"Data: {', '.join(counts)}."]
    for name, model in report["models"].items():
        lines.append(
            f"Model {name}: {model['parameters']:,} parameters, {model['trained']:,} of them trained at the end; a "
            f"kept state takes about {model['state_megabytes']:.0f} MB of disk."
        )
        for stage in model["stages"]:
            losses = ", ".join(f"{loss:.4f}" for loss in stage["losses"])
            lines.append(
                f"  {stage['name'].capitalize()}: {stage['epochs']} epochs of {stage['steps']} steps, "
                f"{stage['seconds_a_step']:.2f} s a step and {stage['seconds_of_dev']:.0f} s an epoch for dev; "
                f"losses of the first steps {losses}."
            )
    where = "of the GPU" if report["device"] == "cuda" else "of each process"
    several = f"{report['processes']} processes" if report["processes"] > 1 else "one process"
    hours, minutes = divmod(round(report["seconds"] / 60), 60)
    return [
        *lines,
        f"Memory: {report['peak_megabytes']:,} MB {where} at most so far.",
        f"Time: about {f'{hours} h ' if hours else ''}{minutes} min on {report['device']}, {several}, in "
        f"{report['precision']}, where no stage ends early.",
    ]
