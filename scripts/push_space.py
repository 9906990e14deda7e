"""Pushes the demo as a Gradio or static Space in one commit, private by default, or writes it into a folder."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from mura_hf.errors import MuraError
from mura_hf.hub import push_space, stage_space, stage_static_space


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repo_id", nargs="?", help="name on the Hub, user/space")
    parser.add_argument(
        "--checkpoint", help="Hub name or folder of the checkpoint to start with (default: the bundled one)"
    )
    parser.add_argument(
        "--static", action="store_true", help="a page that reads studies in the visitor's browser; needs npm to build"
    )
    parser.add_argument("--output_dir", help="write the Space into this new folder, and send nothing")
    parser.add_argument("--public", action="store_true", help="make the Space public")
    parser.add_argument("--dry_run", action="store_true", help="list the files and print the README; send nothing")
    parser.add_argument("--force", action="store_true", help="replace a commit that was not pushed from this machine")
    options = parser.parse_args(argv)
    if options.output_dir is not None:
        title = (options.repo_id or Path(options.output_dir).resolve().name).rpartition("/")[2]
        stage = stage_static_space if options.static else stage_space
        folder = shlex.quote(str(stage(options.output_dir, title=title, checkpoint=options.checkpoint)))
        start = f"python -m http.server --bind 127.0.0.1 --directory {folder}"
        print(f"Space written. Start it with: {start if options.static else f'cd {folder} && python app.py'}")
        return
    if options.repo_id is None:
        parser.error("give the name of the Space on the Hub, or --output_dir")
    result = push_space(
        options.repo_id,
        checkpoint=options.checkpoint,
        static=options.static,
        private=not options.public,
        dry_run=options.dry_run,
        force=options.force,
    )
    if options.dry_run:
        print(f"{result.card}\nDry run for {result.repo_id}; nothing was sent. Files:")
    for name, size in result.files:
        print(f"{size:12,d}  {name}")
    if not options.dry_run:
        print(f"{'Pushed' if result.changed else 'Nothing changed; no commit was made'}: {result.url}")


if __name__ == "__main__":
    try:
        main()
    except MuraError as error:
        raise SystemExit(str(error)) from None
