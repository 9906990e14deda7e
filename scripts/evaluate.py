"""Measures a checkpoint on a split of its data, or on valid of others; writes evaluation.json beside its weights."""

import argparse

from mura_hf.assessment import evaluate_checkpoint, load_split
from mura_hf.errors import MuraError
from mura_hf.inference import PHANTOM_WARNING


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint")
    parser.add_argument("--data_dir", required=True, help="the folder of the data")
    parser.add_argument("--split", default="valid", choices=["dev", "calib", "valid"])
    parser.add_argument("--twins", type=int, default=0, help="patients to render with and without a finding")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    options = parser.parse_args()
    rows, data = load_split(options.checkpoint, options.data_dir, options.split)
    report = evaluate_checkpoint(
        options.checkpoint,
        rows,
        options.split,
        data=data,
        batch_size=options.batch_size,
        twins=options.twins,
        cpu=options.cpu,
    )
    for part, row in report["study"].items():
        figures, intervals = row["figures"], row["intervals"]
        told = []
        for metric in ("auroc", "kappa"):
            low, high = intervals.get(metric, (None, None))
            told.append(
                f"{metric} not defined" if figures[metric] is None or low is None
                else f"{metric} {figures[metric]:.3f} ({low:.3f}-{high:.3f})"
            )  # fmt: skip
        print(f"{part:9s} {figures['n']:5d} studies, {', '.join(told)}")
    for kind, row in report.get("finding", {}).items():
        auroc = row["figures"]["auroc"]
        told = "not defined" if auroc is None else f"{auroc:.3f}"
        print(f"{kind}: {row['figures']['n_abnormal']} studies, AUROC {told}")
    if "pointing" in report:
        row = report["pointing"]["overall"]
        print(f"Pointing game: {row['hits']:.3f} of {row['n']} views, a constant guess {row['constant']:.3f}")
    if "twins" in report:
        changes = report["twins"]
        print(f"Twins: the finding alone moves the answer by {changes['finding']['median']:.3f} (median)")
        for name in ("marker", "ring"):
            if name in changes:
                print(f"A {name} alone moves it by {changes[name]['median_absolute']:.3f} (median, either way)")
    if report["trained_on_phantoms"]:
        print(PHANTOM_WARNING)


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError) as error:
        raise SystemExit(str(error)) from None
