"""Measurements in words."""

from typing import Any

from ..inference import PHANTOM_WARNING


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
    for kind, row in report.get("finding", {}).items():
        auroc = row["figures"]["auroc"]
        known = "not defined" if auroc is None else f"{auroc:.3f}"
        lines.append(f"{kind}: {row['figures']['n_abnormal']} studies, AUROC {known}")
    if "pointing" in report:
        row = report["pointing"]["overall"]
        lines.append(f"Pointing game: {row['hits']:.3f} of {row['n']} views, a constant guess {row['constant']:.3f}")
    if "twins" in report:
        changes = report["twins"]
        lines.append(f"Twins: the finding alone moves the answer by {changes['finding']['median']:.3f} (median)")
        for name in ("marker", "ring"):
            if name in changes:
                lines.append(f"A {name} alone moves it by {changes[name]['median_absolute']:.3f} (median, either way)")
    if report["trained_on_phantoms"]:
        lines.append(PHANTOM_WARNING)
    return lines


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
