"""Files beside a checkpoint's weights, from its folder or the Hub."""

from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from .sources import HUB_TIMEOUT, Source


def find_file(source: Source, name: str) -> Path | None:
    """A file of a checkpoint on this machine, fetched from the Hub where needed; None where the checkpoint has none,
    or the Hub does not hand it out.
    """
    if Path(source.location).is_dir():
        file = Path(source.location) / name
        return file if file.is_file() else None
    cached = try_to_load_from_cache(source.location, name, revision=source.revision)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:  # the Hub was asked before, and has none
        return None
    try:
        return Path(hf_hub_download(source.location, name, revision=source.revision, etag_timeout=HUB_TIMEOUT))
    except Exception:  # what lies beside the weights must not keep a checkpoint from being loaded
        return None


def find_weights(source: Source) -> Path | None:
    """The folder on this machine that holds the weights of a checkpoint that was loaded."""
    if Path(source.location).is_dir():
        return Path(source.location)
    config = try_to_load_from_cache(source.location, "config.json", revision=source.revision)
    return Path(config).parent if isinstance(config, str) else None
