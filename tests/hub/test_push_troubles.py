"""Pushes that are cut off, refused or overtaken, through the unmodified client."""

import json

import pytest
from huggingface_hub import HfApi

from mura_hf import CheckpointError, HubError
from mura_hf.errors import CardError
from mura_hf.hub import committing, push
from mura_hf.metrics import PLOTS
from tests.hub.hub_server import READ_TOKEN, TOKEN
from tests.hub.hub_store import Blob
from tests.hub.pushing import NAME, REPO, push_here


def test_a_line_cut_in_an_upload_leaves_nothing_and_the_next_push_sends_the_rest(pushable, hub, api):
    waited = []
    hub.cut = lambda what, number: what == "put" and number > 1
    with pytest.raises(HubError, match=r"connection to the Hub was cut.*not sent again"):
        push_here(pushable, api, waits=(2, 8), wait=waited.append)
    assert waited == [2, 8]
    repo = hub.repos[REPO]
    assert [commit.title for commit in repo.commits.values()] == ["initial commit"]
    assert not (pushable / "hub.json").exists()
    (arrived,) = hub.store

    hub.cut = lambda what, number: False
    hub.requests.clear()
    result = push_here(pushable, api)
    sent = [path for method, path in hub.requests if method == "PUT"]
    assert len(sent) == len(hub.store) - 1 == 1 + len(PLOTS)
    assert not any(arrived in path for path in sent)
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "Push wrists"]
    assert result.golden_difference < 1e-3


def test_a_short_cut_heals_by_itself(pushable, hub, api):
    hub.cut = lambda what, number: number == 1
    result = push_here(pushable, api)
    assert result.changed
    assert [commit.title for commit in hub.repos[REPO].commits.values()] == ["initial commit", "Push wrists"]
    assert hub.repos[REPO].branches["main"] == result.commit


def test_a_line_cut_in_the_commit_leaves_nothing(pushable, hub, api):
    hub.cut = lambda what, number: what == "commit"
    with pytest.raises(HubError, match="was cut"):
        push_here(pushable, api)
    assert list(hub.files(REPO)) == [".gitattributes"]
    assert len(hub.store) == 2 + len(PLOTS)
    hub.cut = lambda what, number: False
    hub.requests.clear()
    assert push_here(pushable, api).changed
    assert not [path for method, path in hub.requests if method == "PUT"]
    assert len(hub.repos[REPO].commits) == 2


def test_a_line_cut_after_the_commit_is_seen_to_be_done(pushable, hub, api):
    hub.cut = lambda what, number: what == "answer"
    result = push_here(pushable, api)
    assert result.commit == hub.repos[REPO].branches["main"]
    assert json.loads((pushable / "hub.json").read_text()) == {NAME: result.commit}


def test_a_newer_remote_is_replaced_by_force_only(pushable, hub, api):
    first = push_here(pushable, api)
    repo = hub.repos[REPO]
    theirs = repo.add({**hub.head(REPO).tree, "notes.md": Blob(b"mine\n", False)}, "Notes of somebody else")
    with pytest.raises(HubError, match=rf"{theirs}, which was not pushed from here; look at .*{theirs}.*--force"):
        push_here(pushable, api)
    assert repo.branches["main"] == theirs
    result = push_here(pushable, api, force=True)
    assert "notes.md" not in hub.files(REPO)
    assert hub.files(REPO)["README.md"] == result.card.encode()
    assert repo.commits[result.commit].parent == theirs
    assert repo.commits[theirs].parent == first.commit  # history stays


def test_a_folder_that_never_pushed_does_not_overwrite(pushable, whole, hub, api):
    push_here(pushable, api)
    training = json.loads((pushable / "training.json").read_text())
    (pushable / "training.json").write_text(json.dumps({**training, "seconds": 12345.0}))
    (pushable / "hub.json").unlink()
    with pytest.raises(HubError, match="was not pushed from here"):
        push_here(pushable, api)


def test_a_push_from_elsewhere_in_the_meantime_is_not_overwritten(pushable, hub, api):
    push_here(pushable, api)
    repo = hub.repos[REPO]
    training = json.loads((pushable / "training.json").read_text())
    (pushable / "training.json").write_text(json.dumps({**training, "seconds": 12345.0}))
    hub.before_commit = lambda: repo.add({"theirs.md": Blob(b"!", False)}, "Meanwhile")
    with pytest.raises(
        HubError, match="somebody else pushed to tester/wrists while this was sent; nothing was written"
    ):
        push_here(pushable, api)
    assert list(hub.files(REPO)) == ["theirs.md"]


def test_what_comes_back_otherwise_is_told(pushable, hub, api):
    def spoil(what, number):
        if what == "answer":  # the commit was made
            for oid, content in hub.store.items():
                hub.store[oid] = content[:-1] + bytes([content[-1] ^ 1])
        return False

    hub.cut = spoil
    with pytest.raises(CheckpointError, match=r"body_parts\.png came back from tester/wrists \(commit \w+\)"):
        push_here(pushable, api)


@pytest.mark.parametrize(
    ("token", "said"), [(False, "hf auth login"), (READ_TOKEN, "may not write to tester/wrists"), ("hf_no", "hf auth")]
)
def test_who_may_not_push_is_told_why(pushable, hub, token, said):
    with pytest.raises(HubError, match=said):
        push_here(pushable, HfApi(endpoint=hub.url, token=token))
    assert not hub.repos


def test_no_network_is_told(pushable, hub, monkeypatch):
    with pytest.raises(HubError, match="connection to the Hub was cut"):
        push_here(pushable, HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids"):
        push_here(pushable, HfApi(endpoint=hub.url, token=TOKEN))
    assert hub.requests == []


def test_what_the_hub_does_not_take_is_told(pushable, hub, api):
    hub.card_errors = ['"license" must be one of its list']
    with pytest.raises(HubError, match=r'Invalid metadata in README\.md\. - "license" must be one of its list'):
        push_here(pushable, api)
    assert not hub.store  # before anything large was sent
    hub.card_errors, hub.full = [], True
    with pytest.raises(HubError, match=r"may not write to tester/wrists \(.*storage is full"):
        push_here(pushable, api)
    assert list(hub.files(REPO)) == [".gitattributes"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"hub\.json cannot be written .* will ask for --force"):
        committing._remember(tmp_path / "nowhere" / "hub.json", NAME, "0" * 40)


def test_names_that_are_none(pushable, hub, api):
    for name in ("wrists", "a/b/c", "tester/no name"):
        with pytest.raises((HubError, CardError), match="name"):
            push(pushable, name, api=api, progress=False)
    assert not hub.repos


def test_a_gate_that_does_not_open_stops_the_push(pushable, hub, api):
    evaluation = json.loads((pushable / "evaluation.json").read_text())
    del evaluation["study"]
    (pushable / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(CardError):
        push_here(pushable, api)
    assert hub.requests == []
