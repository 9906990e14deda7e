"""`push`: a checkpoint with its card, code and records onto the Hub, in one commit that is then verified."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi

from ..errors import CardError, CheckpointError
from ..metrics import plot_evaluation
from .card import render_card
from .commit import CARD, PushResult, explain_errors, list_files, push_folder
from .export import HUB_RECORD, export_checkpoint
from .push_checks import NOT_PUSHED, check_checkpoint, check_golden, check_text


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    force: bool = False,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    api: HfApi | None = None,
) -> PushResult:
    """Pushes a checkpoint in one commit, downloads it again and verifies it.

    It pushes weights, configuration, image processor, `evaluation.json`, `training.json`, the golden check and the
    model's code; card and plots, which are rendered again from the records; and the index of studies if its data may
    be shared. `hub.json` in the checkpoint's folder records the commit, so that the next push notices commits from
    elsewhere.

    Args:
        folder: Checkpoint, trained and evaluated.
        repo_id: "user/model".
        private: Whether only the owner may see the repository.
        dry_run: Whether to check everything on this machine and stop before any request.
        force: Whether to replace a commit that was not pushed from this folder.
        revision: Branch, created if missing; main if None.
        token: Token for the Hub; the one of `hf auth login` if None.
        commit_message: "Push NAME" if None.
        api: Client to use instead of one made from `token`.

    Raises:
        CardError: If the card lacks a record or a value.
        CheckpointError: If a file is missing or must not leave this machine, or if the download differs from what was
            pushed.
        HubError: If the Hub cannot be reached or refuses, or holds another commit and `force` is not set.
    """
    folder = Path(folder)
    check_checkpoint(folder)
    with TemporaryDirectory(prefix="mura_hf_push_") as place:
        staged = Path(place, "staged")
        stage_checkpoint(folder, staged, repo_id)
        check_golden(folder)
        api = api or HfApi(token=token)
        result = push_folder(
            api,
            staged,
            repo_id,
            repo_type="model",
            message=commit_message or f"Push {repo_id.rpartition('/')[2]}",
            record=folder / HUB_RECORD,
            dry_run=dry_run,
            revision=revision,
            private=private,
            force=force,
        )
        if result.commit is None:
            return result
        difference = _verify(api, repo_id, result.commit, staged, Path(place, "downloaded"))
    return replace(result, golden_difference=difference)


def stage_checkpoint(folder: Path, staged: Path, repo_id: str) -> None:
    """Writes the files of a checkpoint that are pushed, with card and plots, into a new folder."""
    card = render_card(folder, repo_id)
    export_checkpoint(folder, staged)
    for name in NOT_PUSHED:
        (staged / name).unlink(missing_ok=True)
    try:
        plot_evaluation(json.loads((folder / "evaluation.json").read_text()), staged)
    except (KeyError, TypeError, ValueError) as error:
        raise CardError(f"the plots of {folder} cannot be drawn ({error}); run scripts/evaluate.py again") from error
    (staged / CARD).write_bytes(card.encode())
    check_text(staged, [CARD])


def _verify(api: HfApi, repo_id: str, commit: str, staged: Path, cache: Path) -> float:
    """Downloads a commit into an empty cache, compares its files, and returns the difference of the golden logits."""
    with explain_errors(repo_id):
        downloaded = Path(api.snapshot_download(repo_id, revision=commit, cache_dir=cache))
    for name, _ in list_files(staged):
        if not (downloaded / name).is_file() or (downloaded / name).read_bytes() != (staged / name).read_bytes():
            raise CheckpointError(
                f"{name} in {repo_id} (commit {commit}) differs from the file that was pushed; look at it there, and "
                "push again"
            )
    try:
        return check_golden(downloaded)
    except CheckpointError as error:
        raise CheckpointError(
            f"{repo_id} was pushed as commit {commit}, but fails its golden check after download: {error}"
        ) from error
