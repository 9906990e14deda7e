"""Exports a checkpoint as a plain model of timm, which loads without mura_hf and without remote code."""

import argparse
from collections.abc import Sequence

from mura_hf.errors import MuraError
from mura_hf.evaluation import load_split, sample_studies
from mura_hf.hub import export_timm
from mura_hf.inference.loading import find_source, find_weights


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder, Hub name, or name of a bundled checkpoint")
    parser.add_argument("--output_dir", help="a new or empty folder; timm/ beside the checkpoint by default")
    parser.add_argument("--data_dir", help="its data: also compares the export with the checkpoint")
    parser.add_argument("--studies", type=int, default=200, help="number of held-out studies for the comparison")
    options = parser.parse_args(argv)
    held_out = None
    if options.data_dir is not None:
        valid, _ = load_split(find_weights(find_source(options.checkpoint)), options.data_dir, "valid")
        held_out = sample_studies(valid, options.studies)
    found = export_timm(options.checkpoint, options.output_dir, held_out)
    print(f"Exported: {found.folder}; logits differ by at most {found.logit_difference:.1g} on equal pixels")
    one = found.comparison
    if one is None:
        print("Not compared on studies; --data_dir does that.")
        return
    print(f"AUROC on {one.studies} held-out studies: {one.auroc_before:.4f} with the checkpoint")
    rows = {"views as they are": (one.auroc, one.largest_change)}
    if one.auroc_padded is not None:
        rows["views padded with black"] = (one.auroc_padded, one.largest_change_padded)
    for name, (auroc, change) in rows.items():
        print(f"{name}: AUROC {auroc:.4f} ({auroc - one.auroc_before:+.4f}), largest change {change:.2g}")


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError, ImportError) as error:
        raise SystemExit(str(error)) from None
