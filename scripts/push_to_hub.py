"""Pushes a checkpoint to the Hub with its card, code and records, in one commit; private unless said otherwise."""

import argparse

from mura_hf.errors import MuraError
from mura_hf.hub import push


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="folder of the checkpoint, trained and evaluated")
    parser.add_argument("repo_id", help="its name on the Hub, user/model")
    parser.add_argument("--public", action="store_true", help="let everybody see it")
    parser.add_argument(
        "--dry_run", action="store_true", help="check all, list the files, show the card; send nothing"
    )
    parser.add_argument("--force", action="store_true", help="replace a commit that was not pushed from this folder")
    parser.add_argument("--revision", help="a branch, made where it is missing; the main one where left out")
    parser.add_argument("--message", help="of the commit")
    options = parser.parse_args()
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
        print(f"{result.card}\nWould be pushed to {result.repo_id}; nothing was sent:")
    for name, size in result.files:
        print(f"{size:12,d}  {name}")
    if not options.dry_run:
        done = "Pushed" if result.changed else "Nothing changed; no commit was made"
        print(f"{done}: {result.url}")
        print(f"Golden check after download: logits differ by {result.golden_difference:.1e} at most")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
