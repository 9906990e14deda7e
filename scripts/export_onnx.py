"""Exports a checkpoint to ONNX: one graph for a view, preprocessing included, beside the checkpoint."""

import argparse
from collections.abc import Sequence

from mura_hf.errors import MuraError
from mura_hf.hub import export_onnx


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder, Hub name, or name of a bundled checkpoint")
    parser.add_argument("--output_dir", help="folder that gets onnx/; the checkpoint's own by default")
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


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
