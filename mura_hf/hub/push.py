"""`push`: a checkpoint onto the Hub, with its card, code and records, in one commit that is then checked."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

from ..errors import CardError, CheckpointError
from ..metrics import plot_evaluation
from .card import render_card
from .committing import WAITS, commit_folder, list_files, told_plainly
from .export import HUB_RECORD, export_checkpoint
from .push_checks import CARD, LEFT_BEHIND, check_checkpoint, check_golden, check_text


@dataclass(frozen=True)
class PushResult:
    """What a push did, or would do.

    Attributes:
        repo_id: "user/model".
        url: Where it can be looked at; None after a dry run.
        commit: Its hash; None after a dry run.
        changed: Whether this push made that commit; False where everything was there already, and after a dry run.
        files: Names and sizes in bytes.
        card: The card's text.
        golden_difference: By how much the golden logits differ at most after download; None after a dry run.
    """

    repo_id: str
    url: str | None
    commit: str | None
    changed: bool
    files: list[tuple[str, int]]
    card: str
    golden_difference: float | None


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
    progress: bool = True,
    api: HfApi | None = None,
    waits: Sequence[float] = WAITS,
    wait: Callable[[float], Any] = sleep,
) -> PushResult:
    """Pushes a checkpoint in one commit, downloads it again and checks it.

    What goes: weights, configuration and processor, `evaluation.json`, `training.json`, the golden check, the model's
    code, and card and plots, made anew from the records; and the index of studies where its data may be passed on.
    `hub.json` in the checkpoint's folder remembers the commit,
    so that the next push knows whether somebody else has been there since.

    Args:
        folder: The checkpoint, trained and evaluated.
        repo_id: "user/model".
        private: Whether only its owner may see it.
        dry_run: Whether to stop after everything that can be checked on this machine; nothing is sent, or asked.
        force: Whether a commit that was not pushed from this folder may be replaced.
        revision: A branch, made where it is missing; the main one where None.
        token: Of the Hub; the one of `hf auth login` where None.
        commit_message: "Push NAME" where None.
        progress: Whether to show bars.
        api: The Hub's client, instead of one with `token`.
        waits: Seconds before each further try, should the line be cut.
        wait: How to wait.

    Raises:
        CardError: If the card lacks a record or a value.
        CheckpointError: If a file is missing, or must not leave this machine; or if what was pushed is not what comes
            back, or answers otherwise.
        HubError: If the Hub cannot be reached or refuses, or holds something else and not `force`.
    """
    folder = Path(folder)
    check_checkpoint(folder)
    with TemporaryDirectory(prefix="mura_hf_push_") as place, _bars(progress):
        staged = Path(place, "staged")
        card = _stage(folder, staged, repo_id)
        check_golden(folder)
        files = list_files(staged)
        if dry_run:
            return PushResult(repo_id, None, None, False, files, card, None)
        api = api or HfApi(token=token)
        made = commit_folder(
            api,
            staged,
            repo_id,
            repo_type="model",
            message=commit_message or f"Push {repo_id.rpartition('/')[2]}",
            memory=folder / HUB_RECORD,
            revision=revision,
            private=private,
            force=force,
            waits=waits,
            wait=wait,
        )
        difference = _check_pushed(api, repo_id, made.commit, staged, Path(place, "again"))
    return PushResult(repo_id, made.url, made.commit, made.changed, files, card, difference)


def _stage(folder: Path, staged: Path, repo_id: str) -> str:
    """Lays out what is pushed; the card is the answer."""
    card = render_card(folder, repo_id)
    export_checkpoint(folder, staged)
    for name in LEFT_BEHIND:
        (staged / name).unlink(missing_ok=True)
    try:
        plot_evaluation(json.loads((folder / "evaluation.json").read_text()), staged)
    except (KeyError, TypeError, ValueError) as error:
        raise CardError(f"the plots of {folder} cannot be drawn ({error}); run scripts/evaluate.py again") from error
    (staged / CARD).write_bytes(card.encode())
    check_text(staged, [CARD])
    return card


def _check_pushed(api: HfApi, repo_id: str, commit: str, staged: Path, cache: Path) -> float:
    """Downloads a commit into an empty cache, compares it with what was sent, and computes the golden logits."""
    with told_plainly(repo_id):
        found = Path(api.snapshot_download(repo_id, revision=commit, cache_dir=cache))
    for name, _ in list_files(staged):
        if not (found / name).is_file() or (found / name).read_bytes() != (staged / name).read_bytes():
            raise CheckpointError(
                f"{name} came back from {repo_id} (commit {commit}) otherwise than it was sent; look at it there, and "
                "push again"
            )
    try:
        return check_golden(found)
    except CheckpointError as error:
        raise CheckpointError(
            f"{repo_id} was pushed as commit {commit}, but fails its golden check after download: {error}"
        ) from error


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Keeps progress bars of client and loader away where they are not wanted, as long as this lasts."""
    sending, loading = not are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    if not shown and sending:
        disable_progress_bars()
    if not shown and loading:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if not shown and sending:
            enable_progress_bars()
        if not shown and loading:
            logging.enable_progress_bar()
