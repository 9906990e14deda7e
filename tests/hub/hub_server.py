"""A Hub on loopback: the part of its protocol that the unmodified client uses to push, look and download.

Repositories live in memory with all their commits. The connection can be cut during an upload or a commit.
"""

import base64
import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN, READ_TOKEN = "hf_local_write", "hf_local_read"
OWNER = "tester"


@dataclass(frozen=True)
class Blob:
    """Content of a file; the tree refers to a large one by its SHA-256."""

    content: bytes
    large: bool

    @property
    def etag(self) -> str:
        return hashlib.sha256(self.content).hexdigest() if self.large else self.oid

    @property
    def oid(self) -> str:
        """Hash of git's blob; of the SHA-256 for a large file."""
        stored = self.etag.encode() if self.large else self.content
        return hashlib.sha1(f"blob {len(stored)}\0".encode() + stored).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        size = len(self.content)
        large = {"lfs": {"oid": self.etag, "size": size, "pointerSize": 134}} if self.large else {}
        return {"type": "file", "path": path, "size": size, "oid": self.oid, **large}


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
        return self.branches.get(revision, revision if revision in self.commits else None)

    def add(self, tree: dict[str, Blob], title: str, branch: str = "main") -> str:
        parent = self.branches.get(branch)
        content = f"{parent} {title} {sorted((path, blob.oid) for path, blob in tree.items())} {len(self.commits)}"
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.commits[commit] = Commit(parent, title, dict(tree))
        self.branches[branch] = commit
        return commit


class HubServer(ThreadingHTTPServer):
    """The Hub; `with HubServer() as hub` serves until the end of the block."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}  # by "models/owner/name" and "spaces/owner/name"
        self.store: dict[str, bytes] = {}  # large files that arrived, by SHA-256
        self.requests: list[tuple[str, str]] = []
        # Whether to cut the connection at a "put", "commit" or "answer" (to a commit that was made) of this number.
        self.cut: Callable[[str, int], bool] = lambda what, number: False
        self.before_commit: Callable[[], Any] | None = None  # called once before the next commit is handled
        self.card_errors: list[str] = []
        self.full = False  # whether to refuse further large files
        self.counts: Counter[str] = Counter()
        self.lock = threading.RLock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "HubServer":
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def cuts(self, what: str) -> bool:
        with self.lock:
            self.counts[what] += 1
            return self.cut(what, self.counts[what])

    def head(self, repo: str) -> Commit:
        return self.repos[repo].commits[self.repos[repo].branches["main"]]

    def files(self, repo: str) -> dict[str, bytes]:
        return {path: blob.content for path, blob in self.head(repo).tree.items()}


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.server.requests.append((self.command, url.path))
        if parts[0] == "put":
            return self._put(parts[1])
        if parts[0] == "cdn":
            if self.headers.get("Authorization"):
                return self._refuse(400, "", "the token went to another host")
            return self._answer(200, self.server.store[parts[1]], {"ETag": f'"{parts[1]}"'})
        if parts[0] == "api":
            with self.server.lock:
                return self._api(parts[1:])
        kind, rest = ("spaces", parts[1:]) if parts[0] == "spaces" else ("models", parts)
        repo = self._repo(kind, f"{rest[0]}/{rest[1].removesuffix('.git')}")
        if repo is None:
            return None
        return self._resolve(repo, rest[3:]) if rest[2] == "resolve" else self._large(parts, rest[-1])

    do_HEAD = do_GET = do_POST = do_PUT = _serve  # noqa: N815 - names of the base class

    # What the client asks of the API.

    def _api(self, parts: list[str]) -> None:
        if parts == ["whoami-v2"]:
            return self._json({"name": OWNER, "type": "user", "orgs": []}) if self._who() else self._refuse(401, "")
        if parts == ["validate-yaml"]:
            self._body()
            errors = [{"message": message} for message in self.server.card_errors]
            return self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
        if parts == ["repos", "create"]:
            return self._create()
        kind, name, what = parts[0], "/".join(parts[1:3]), parts[3:]
        body = self._body() if self.command == "POST" and what[:1] != ["commit"] else b""
        repo = self._repo(kind, name)
        if repo is None:
            return None
        if what[:1] == ["commit"]:
            return self._commit(repo, name, what[1])
        if what[:1] == ["branch"]:
            if self._may_write():
                repo.branches[what[1]] = repo.branches["main"]
                self._json({})
            return None
        commit = repo.find(what[1] if len(what) > 1 else "main")
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        tree = repo.commits[commit].tree
        if not what or what[0] == "revision":
            siblings = [{"rfilename": path} for path in tree]
            return self._json({"id": name, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []})
        if what[0] == "tree":
            return self._json([blob.entry(path) for path, blob in sorted(tree.items())])
        if what[0] == "preupload" and self._may_write():
            return self._json({"files": [self._upload_mode(one, tree) for one in json.loads(body)["files"]]})
        return None

    @staticmethod
    def _upload_mode(one: dict[str, Any], tree: dict[str, Blob]) -> dict[str, Any]:
        large = one["path"].endswith(".safetensors") or b"\0" in base64.b64decode(one["sample"])
        known = {"oid": tree[one["path"]].etag} if one["path"] in tree else {}
        return {"path": one["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **known}

    def _create(self) -> None:
        asked = json.loads(self._body())
        if not self._may_write():
            return None
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or OWNER}/{asked['name']}"
        described = {"url": f"{self.server.url}/{'spaces/' if kind == 'spaces' else ''}{name}", "name": name}
        if f"{kind}/{name}" in self.server.repos:
            return self._json(described, 409)
        repo = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        repo.add({".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}, "initial commit")
        self.server.repos[f"{kind}/{name}"] = repo
        return self._json(described)

    def _commit(self, repo: Repo, name: str, branch: str) -> None:
        hook, self.server.before_commit = self.server.before_commit, None
        if hook is not None:
            hook()
        if self.server.cuts("commit"):
            return self._cut()
        header, *lines = [json.loads(line) for line in self._body().splitlines() if line.strip()]
        if not self._may_write():
            return None
        if header["value"].get("parentCommit") not in (None, repo.branches[branch]):
            return self._refuse(412, "", "A commit has happened since. Please refresh and try again.")
        tree = dict(repo.commits[repo.branches[branch]].tree)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                tree[value["path"]] = Blob(self.server.store[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        commit = repo.add(tree, header["value"]["summary"], branch)
        if self.server.cuts("answer"):
            return self._hang_up()
        return self._json({"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit})

    # Large files, and what is downloaded.

    def _large(self, parts: list[str], what: str) -> None:
        body = json.loads(self._body())
        if not self._may_write():
            return None
        if what == "verify":
            return self._json({}) if body["oid"] in self.server.store else self._refuse(404, "EntryNotFound")
        verify = {"href": f"{self.server.url}/{'/'.join(parts[:-1])}/verify"}
        objects = []
        for one in body["objects"]:
            actions = {"upload": {"href": f"{self.server.url}/put/{one['oid']}"}, "verify": verify}
            objects.append(one if one["oid"] in self.server.store else {**one, "actions": actions})
        return self._json({"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        if self.server.cuts("put"):
            return self._cut()
        content = self._body()
        if self.server.full:
            return self._refuse(403, "", "Your storage is full")
        if hashlib.sha256(content).hexdigest() != oid:
            return self._refuse(400, "", "another file was announced")
        self.server.store[oid] = content
        return self._json({})

    def _resolve(self, repo: Repo, parts: list[str]) -> None:
        commit = repo.find(parts[0])
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        blob = repo.commits[commit].tree.get("/".join(parts[1:]))
        if blob is None:
            return self._refuse(404, "EntryNotFound", commit=commit)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob.etag}"'}
        if not blob.large:
            return self._answer(200, blob.content, headers)
        headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        # "localhost" is another host for the client, as the Hub's own CDN is: it goes there without its token.
        cdn = f"http://localhost:{self.server.server_address[1]}/cdn/{blob.etag}"
        return self._answer(302, b"", {**headers, "Location": cdn})

    # Who asks, and answers.

    def _who(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return token if token in (TOKEN, READ_TOKEN) else None

    def _repo(self, kind: str, name: str) -> Repo | None:
        repo = self.server.repos.get(f"{kind}/{name}")
        if repo is None or (repo.private and not self._who()):
            self._refuse(404 if self._who() else 401, "RepoNotFound")
            return None
        return repo

    def _may_write(self) -> bool:
        who = self._who()
        if who != TOKEN:
            self._refuse(403 if who else 401, "", "no write access" if who else "Invalid username or password.")
        return who == TOKEN

    def _body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _cut(self) -> None:
        """Takes half of what is sent, and hangs up."""
        self.rfile.read(int(self.headers.get("Content-Length") or 2000) // 2)
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str = "", commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        body = json.dumps({"error": message or code}).encode()
        self._answer(status, body, {name: value for name, value in headers.items() if value})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
