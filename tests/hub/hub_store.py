"""What the Hub on loopback holds: repositories with all their commits, and how it tells of them."""

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

OWNER = "tester"
_DATE = "2026-11-22T01:02:03.000Z"


@dataclass(frozen=True)
class Blob:
    """A file's content; a large one lies in the store of large files, and the tree knows its SHA-256."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """As git counts it; of a large file's pointer."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        stored = pointer.encode() if self.large else self.content
        return hashlib.sha1(f"blob {len(stored)}\0".encode() + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass(frozen=True)
class Commit:
    parent: str | None
    title: str
    tree: dict[str, Blob]


@dataclass
class Repo:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> str | None:
        if revision in self.branches:
            return self.branches[revision]
        return next((commit for commit in self.commits if commit == revision), None)

    def add(self, tree: dict[str, Blob], title: str, branch: str = "main") -> str:
        parent = self.branches.get(branch)
        told = f"{parent} {title} {sorted((path, blob.oid) for path, blob in tree.items())} {len(self.commits)}"
        commit = hashlib.sha1(told.encode()).hexdigest()
        self.commits[commit] = Commit(parent, title, dict(tree))
        self.branches[branch] = commit
        return commit


def entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid}
    if blob.large:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
    return entry


def upload_mode(one: dict[str, Any], tree: dict[str, Blob]) -> dict[str, Any]:
    large = one["path"].endswith(".safetensors") or b"\0" in base64.b64decode(one["sample"])
    there = tree.get(one["path"])
    known = {} if there is None else {"oid": there.etag}
    return {"path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **known}


def history(repo: Repo, commit: str | None) -> list[dict[str, Any]]:
    rows = []
    while commit is not None:
        one = repo.commits[commit]
        rows.append({"id": commit, "title": one.title, "message": "", "date": _DATE, "authors": [{"user": OWNER}]})
        commit = one.parent
    return rows
