"""Exports a checkpoint to ONNX: one graph for a view, preprocessing included, beside the checkpoint."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from datasets import Image

from mura_hf.errors import CheckpointError, MuraError
from mura_hf.evaluation import load_splits, sample_studies
from mura_hf.evaluation.splits import image_source, spread_indices
from mura_hf.hub import export_onnx, shrink_graph
from mura_hf.inference.loading import find_source, find_weights
from mura_hf.radiographs import read_levels


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder, Hub name, or name of a bundled checkpoint")
    parser.add_argument("--output_dir", help="folder that gets onnx/; the checkpoint's own by default")
    parser.add_argument("--data_dir", help="its data: also writes smaller graphs (half-precision weights, int8)")
    parser.add_argument("--studies", type=int, default=500, help="number of held-out studies for the comparison")
    options = parser.parse_args(argv)
    found = export_onnx(options.checkpoint, options.output_dir)
    for file in found.files:
        print(f"Exported: {file} ({file.stat().st_size / 1e6:.1f} MB)")
    print(
        f"Largest differences from PyTorch on {found.pictures} pictures: probability "
        f"{found.probability_difference:.1g}, logit {found.logit_difference:.1g}"
        + ("" if found.no_heatmap else f", heatmap {found.heatmap_difference:.1g}")
        + f"; boxes that differ: {found.different_boxes}" * (not found.no_heatmap)
    )
    if found.no_heatmap:
        print(f"The graph has no heatmap: {found.no_heatmap}.")
    if options.data_dir is not None:
        if found.files[0].name != "model.onnx":
            raise CheckpointError("Graphs of single body parts cannot be made smaller; leave out --data_dir.")
        shrink(options.checkpoint, found.files[0].parents[1], options.data_dir, options.studies)


def shrink(checkpoint: str, folder: Path, data_dir: str, studies: int) -> None:
    datasets, _ = load_splits(find_weights(find_source(checkpoint)), data_dir, "valid")
    calib = datasets["calib"].cast_column("image", Image(decode=False))
    calibration = [read_levels(image_source(row["image"])) for row in calib.select(spread_indices(len(calib), 100))]
    for name, one in shrink_graph(folder, calibration, sample_studies(datasets["valid"], studies)).items():
        print(f"{name}: {one}" + "; too different, so it was not written" * (not one.kept))


if __name__ == "__main__":
    try:
        main()
    except (MuraError, ValueError, ImportError) as error:
        raise SystemExit(str(error)) from None
