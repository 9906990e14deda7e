"""Pushes the app as a Gradio Space that starts as it is, in one commit; private unless said otherwise."""

import argparse

from mura_hf.errors import MuraError
from mura_hf.hub import push_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repo_id", help="its name on the Hub, user/space")
    parser.add_argument("--checkpoint", help="Hub name of the checkpoint that it starts with; else the package's own")
    parser.add_argument("--public", action="store_true", help="let everybody see it")
    parser.add_argument("--dry_run", action="store_true", help="list the files, show the README; send nothing")
    parser.add_argument("--force", action="store_true", help="replace a commit that was not pushed from this machine")
    options = parser.parse_args()
    result = push_space(
        options.repo_id,
        checkpoint=options.checkpoint,
        private=not options.public,
        dry_run=options.dry_run,
        force=options.force,
    )
    if options.dry_run:
        print(f"{result.readme}\nWould be pushed to {result.repo_id}; nothing was sent:")
    for name, size in result.files:
        print(f"{size:12,d}  {name}")
    if not options.dry_run:
        print(f"{'Pushed' if result.changed else 'Nothing changed; no commit was made'}: {result.url}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
