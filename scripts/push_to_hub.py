"""Pushes a checkpoint to the Hub with its card, code and records, in one commit. Private by default."""

import argparse
from collections.abc import Sequence

from mura_hf.errors import MuraError
from mura_hf.hub import push


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint, trained and evaluated")
    parser.add_argument("repo_id", help="name on the Hub, user/model")
    parser.add_argument("--public", action="store_true", help="make the repository public")
    parser.add_argument(
        "--dry_run", action="store_true", help="check everything, list the files and print the card; send nothing"
    )
    parser.add_argument("--force", action="store_true", help="replace a commit that was not pushed from this folder")
    parser.add_argument("--revision", help="branch, created if missing (default: main)")
    parser.add_argument("--message", help="title of the commit")
    options = parser.parse_args(argv)
    result = push(
        options.checkpoint,
        options.repo_id,
        private=not options.public,
        dry_run=options.dry_run,
        force=options.force,
        revision=options.revision,
        commit_message=options.message,
    )
    if options.dry_run:
        print(f"{result.card}\nDry run for {result.repo_id}; nothing was sent. Files:")
    for name, size in result.files:
        print(f"{size:12,d}  {name}")
    if not options.dry_run:
        print(f"{'Pushed' if result.changed else 'Nothing changed; no commit was made'}: {result.url}")
        print(f"Golden check after download: logits differ by {result.golden_difference:.1e} at most")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
