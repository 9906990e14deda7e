import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mura_hf import CheckpointError
from mura_hf.demo import state
from mura_hf.demo.state import LOCAL_LIMITS, PUBLIC_LIMITS, CheckpointCache, LatestRequests, is_public
from tests.inference.external import save_external


def test_folders_are_read_only_if_they_are_allowed(checkpoint, monkeypatch):
    assert CheckpointCache(allow_folders=True).get(str(checkpoint)).checkpoint == f"folder: {checkpoint.name}"
    monkeypatch.chdir(checkpoint.parents[1])
    relative = f"{checkpoint.parent.name}/{checkpoint.name}"  # looks like a Hub name
    for name in (str(checkpoint), relative, "../secrets", "https://example.org/model", "a/b/c", "~", "nothing"):
        with pytest.raises(CheckpointError, match=r"is not a Hub name.*only if the app serves on loopback"):
            CheckpointCache(allow_folders=False).get(name)


def test_names_revisions_and_labels_must_fit_together():
    cache = CheckpointCache(allow_folders=False)
    assert cache.get("mura-phantom").checkpoint == "bundled: mura-phantom"
    for key, message in (
        (("mura-phantom", "main"), "has no revisions"),
        (("", "main"), "belongs to a Hub name"),
        (("", "", "LABEL_1"), "needs the name of a model"),
        (("nobody/nothing",), "nobody/nothing"),  # no network
    ):
        with pytest.raises(CheckpointError, match=message):
            cache.get(*key)


def test_the_abnormal_label_of_an_external_checkpoint_can_be_given(tmp_path):
    folder = str(save_external(tmp_path / "vit", "vit", labels=("LABEL_0", "LABEL_1")))
    cache = CheckpointCache(allow_folders=True)
    with pytest.raises(CheckpointError, match="Abnormal label"):
        cache.get(folder)
    first, second = (cache.get(folder, "", f"{label} ") for label in ("LABEL_0", "LABEL_1"))
    assert first.model.order == second.model.order[::-1]
    assert cache.get(folder, "", "LABEL_1") is second


def test_only_the_latest_predictors_and_the_default_are_kept(checkpoint):
    cache = CheckpointCache(allow_folders=True, capacity=1)
    default, first = cache.get(), cache.get(str(checkpoint))
    assert cache.get(str(checkpoint)) is first
    cache.get(str(checkpoint.parent / "." / checkpoint.name) + "/")
    assert cache.get(str(checkpoint)) is not first
    assert cache.get() is default


def test_a_slow_download_does_not_delay_others(checkpoint, monkeypatch):
    cache = CheckpointCache(allow_folders=True)
    cache.get()
    started, finish = threading.Event(), threading.Event()

    def load_slowly(name, **options):
        started.set()
        assert finish.wait(30)
        raise CheckpointError(f"{name} cannot be loaded")

    monkeypatch.setattr("mura_hf.demo.state.StudyPredictor.from_pretrained", load_slowly)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(cache.get, "slow/model")
        assert started.wait(30)
        assert cache.get().checkpoint.startswith("bundled")
        finish.set()
        with pytest.raises(CheckpointError, match="slow/model cannot be loaded"):
            loading.result()
    assert not cache._loading


def test_a_request_that_comes_while_a_checkpoint_is_stored_does_not_load_it_again(monkeypatch):
    cache, lock, loads = CheckpointCache(allow_folders=True), threading.Lock(), []

    class Interrupted:
        """Whenever the lock becomes free after the checkpoint was loaded, another request takes it."""

        def __enter__(self):
            lock.acquire()

        def __exit__(self, *error):
            lock.release()
            if loads and cache._lock is self:
                cache._lock = lock
                cache.get("mura-phantom")
                cache._lock = self

    monkeypatch.setattr(
        "mura_hf.demo.state.StudyPredictor.from_pretrained", lambda name, **options: loads.append(name) or name
    )
    cache._lock = Interrupted()
    assert cache.get("mura-phantom") == "mura-phantom"
    assert loads == ["mura-phantom"]


def test_only_the_latest_request_of_a_session_is_shown(monkeypatch):
    latest = LatestRequests()
    first, other = latest.begin("a"), latest.begin("b")
    assert latest.is_latest("a", first)
    second = latest.begin("a")
    assert not latest.is_latest("a", first)
    assert latest.is_latest("a", second)
    assert latest.is_latest("b", other)
    monkeypatch.setattr(state, "_MAX_SESSIONS", 3)
    for name in "cbd":  # an active session is not the oldest one
        latest.begin(name)
    assert latest.find("a") is None
    assert latest.is_latest("a", first)  # forgotten
    assert not latest.is_latest("b", other)


def test_a_public_page_limits_checkpoints(tmp_path):
    file = save_external(tmp_path, "vit") / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 800}))
    cache = CheckpointCache(allow_folders=True, limits=PUBLIC_LIMITS.checkpoint)
    with pytest.raises(CheckpointError, match="more than 10,000 tensors"):
        cache.get(str(tmp_path))
    assert cache.get("mura-phantom").checkpoint == "bundled: mura-phantom"
    assert LOCAL_LIMITS.checkpoint.weights_bytes is None


@pytest.mark.parametrize(
    ("host", "environment", "public"),
    [
        ("127.0.0.1", {}, False),
        ("localhost", {"MURA_PUBLIC": "0", "GRADIO_ROOT_PATH": "", "SPACE_ID": ""}, False),
        ("0.0.0.0", {}, True),
        ("192.168.0.7", {"MURA_PUBLIC": "0"}, True),
        ("127.0.0.1", {"SPACE_ID": "me/mura"}, True),
        ("127.0.0.1", {"MURA_PUBLIC": "1"}, True),
        ("::1", {"GRADIO_ROOT_PATH": "/mura"}, True),
    ],
)
def test_what_makes_an_app_public(host, environment, public):
    assert is_public(host, environment) is public
