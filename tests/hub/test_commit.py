"""Commits through the unmodified client: one or none, cut off, refused or overtaken."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi

from mura_hf import HubError
from mura_hf.hub import commit as commit_module
from mura_hf.hub.commit import WAITS, push_folder
from tests.hub.conftest import writes_of
from tests.hub.hub_server import READ_TOKEN, TOKEN, Blob

NAME, REPO = "tester/films", "models/tester/films"
FIRST, OURS = "initial commit", "Ours"


@pytest.fixture
def folder(tmp_path):
    """Three large files, which go through LFS, and three small ones."""
    place = tmp_path / "files"
    (place / "deep").mkdir(parents=True)
    for number in range(3):
        (place / f"weights-{number}.safetensors").write_bytes(bytes([number]) * 4000)
    (place / "README.md").write_text("---\nlicense: other\n---\n\n# Films\n")
    (place / "config.json").write_text("{}\n")
    (place / "deep" / "notes.txt").write_text("deep\n")
    return place


@pytest.fixture
def put(folder, api, tmp_path):
    options = {"repo_type": "model", "message": OURS, "record": tmp_path / "hub.json"}
    return lambda api=api, name=NAME, **changes: push_folder(api, folder, name, **{**options, **changes})


def titles(hub):
    return [commit.title for commit in hub.repos[REPO].commits.values()]


def puts(hub):
    return [path for method, path in hub.requests if method == "PUT"]


def test_one_commit_holds_the_folder_and_nothing_else(put, folder, hub, tmp_path):
    made = put()
    assert (made.changed, made.commit) == (True, hub.repos[REPO].branches["main"])
    assert made.url == f"{hub.url}/{NAME}/tree/{made.commit}"
    assert titles(hub) == [FIRST, OURS]
    assert hub.repos[REPO].private
    found = hub.files(REPO)
    assert found.pop(".gitattributes")
    assert found == {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert json.loads((tmp_path / "hub.json").read_text()) == {NAME: made.commit}

    (folder / "config.json").write_text('{"a": 1}\n')
    (folder / "deep" / "notes.txt").unlink()
    (folder / "weights-1.safetensors").write_bytes(b"new")
    hub.requests.clear()
    again = put()
    assert hub.head(REPO).parent == made.commit
    assert again.commit == hub.repos[REPO].branches["main"]
    assert len(puts(hub)) == 1
    found = hub.files(REPO)
    assert (found["config.json"], found["weights-1.safetensors"]) == (b'{"a": 1}\n', b"new")
    assert "deep/notes.txt" not in found


def test_nothing_new_makes_no_commit_even_if_the_record_is_lost(put, hub, tmp_path):
    first = put()
    hub.requests.clear()
    for content in (None, "{ torn", "[]"):
        if content is not None:
            (tmp_path / "hub.json").write_text(content)
        again = put()
        assert (again.changed, again.commit, writes_of(hub)) == (False, first.commit, [])


def test_a_branch(put, folder, hub, tmp_path):
    first = put()
    (folder / "config.json").write_text("[]\n")
    second = put(revision="next", message="Longer")
    assert hub.repos[REPO].branches == {"main": first.commit, "next": second.commit}
    assert hub.repos[REPO].commits[second.commit].title == "Longer"
    assert json.loads((tmp_path / "hub.json").read_text()) == {NAME: first.commit, f"{NAME}@next": second.commit}
    assert not put(revision="next").changed


def test_public_only_on_request(put, hub):
    put(private=False)
    assert not hub.repos[REPO].private
    with pytest.raises(HubError, match="is public on the Hub, but this push is private"):
        put()


def test_an_upload_that_is_cut_leaves_nothing_and_the_next_push_sends_the_rest(put, hub, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(commit_module, "time", SimpleNamespace(sleep=waited.append))
    hub.cut = lambda what, number: what == "put" and number > 1
    with pytest.raises(HubError, match=r"connection to the Hub was lost.*not sent again"):
        put()
    assert waited == list(WAITS)
    assert titles(hub) == [FIRST]
    assert not (tmp_path / "hub.json").exists()
    (arrived,) = hub.store

    hub.cut = lambda what, number: False
    hub.requests.clear()
    put()
    assert len(puts(hub)) == 2
    assert not any(arrived in path for path in puts(hub))
    assert titles(hub) == [FIRST, OURS]


def test_a_commit_that_is_cut_leaves_nothing_and_a_short_cut_heals(put, hub):
    hub.cut = lambda what, number: what == "commit"
    with pytest.raises(HubError, match="was lost"):
        put()
    assert list(hub.files(REPO)) == [".gitattributes"]
    assert len(hub.store) == 3
    first = hub.counts["commit"] + 1
    hub.cut = lambda what, number: number == first
    hub.requests.clear()
    assert put().commit == hub.repos[REPO].branches["main"]
    assert puts(hub) == []
    assert titles(hub) == [FIRST, OURS]


def test_a_commit_whose_answer_is_lost_is_recognised(put, folder, hub, tmp_path):
    hub.cut = lambda what, number: what == "answer" and number == 1
    assert put().commit == hub.repos[REPO].branches["main"]
    (folder / "deep" / "notes.txt").unlink()  # the second try is refused: there is nothing to delete any more
    hub.cut = lambda what, number: what == "answer" and number == 2
    made = put()
    assert made.commit == hub.repos[REPO].branches["main"]
    assert json.loads((tmp_path / "hub.json").read_text()) == {NAME: made.commit}
    assert titles(hub) == [FIRST, OURS, OURS]


def test_a_newer_remote_is_replaced_by_force_only(put, folder, hub, tmp_path):
    first = put()
    repo = hub.repos[REPO]
    theirs = repo.add({**hub.head(REPO).tree, "notes.md": Blob(b"mine\n", False)}, "Notes of somebody else")
    with pytest.raises(HubError, match=rf"{theirs}, which was not pushed from here; look at .*{theirs}.*--force"):
        put()
    assert repo.branches["main"] == theirs
    result = put(force=True)
    assert "notes.md" not in hub.files(REPO)
    assert repo.commits[result.commit].parent == theirs  # history stays
    assert repo.commits[theirs].parent == first.commit

    (folder / "config.json").write_text("[]\n")
    with pytest.raises(HubError, match="was not pushed from here"):
        put(record=tmp_path / "other.json")  # of a folder that never pushed


@pytest.mark.parametrize("force", [False, True])
def test_a_push_from_elsewhere_in_the_meantime_is_not_overwritten(put, folder, hub, force):
    put()
    (folder / "config.json").write_text("[]\n")
    hub.before_commit = lambda: hub.repos[REPO].add({"theirs.md": Blob(b"!", False)}, "Meanwhile")
    with pytest.raises(HubError, match=f"somebody else pushed to {NAME} during this push, and nothing was written"):
        put(force=force)
    assert list(hub.files(REPO)) == ["theirs.md"]


def test_who_may_not_push_and_no_network(put, hub, monkeypatch):
    for token, message in ((False, "hf auth login"), (READ_TOKEN, f"may not write to {NAME}"), ("hf_no", "hf auth")):
        with pytest.raises(HubError, match=message):
            put(api=HfApi(endpoint=hub.url, token=token))
    assert not hub.repos
    with pytest.raises(HubError, match="connection to the Hub was lost"):
        put(api=HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        put()
    assert hub.requests == []


def test_what_the_hub_refuses(put, hub):
    hub.card_errors = ['"license" must be one of its list']
    with pytest.raises(HubError, match=r'Invalid metadata in README\.md\. - "license" must be one of its list'):
        put()
    assert not hub.store  # before any large file was sent
    hub.card_errors, hub.full = [], True
    with pytest.raises(HubError, match=rf"may not write to {NAME} \(.*storage is full"):
        put()
    assert list(hub.files(REPO)) == [".gitattributes"]
    for name in ("wrists", "a/b/c", "tester/no name"):
        with pytest.raises(HubError, match="not a valid name"):
            put(name=name)


def test_a_record_that_cannot_be_written_is_a_warning(put, tmp_path):
    with pytest.warns(UserWarning, match=r"hub\.json cannot be written .* will ask for --force"):
        put(record=tmp_path / "nowhere" / "hub.json")
    assert commit_module._read_record(tmp_path / "nowhere" / "hub.json") == {}
