from mura_hf.demo import requests


def test_only_the_latest_request_of_a_session_is_shown(monkeypatch):
    latest = requests.LatestRequests()
    first, other = latest.begin("a"), latest.begin("b")
    assert latest.is_latest("a", first)
    second = latest.begin("a")
    assert not latest.is_latest("a", first)
    assert latest.is_latest("a", second)
    assert latest.is_latest("b", other)
    monkeypatch.setattr(requests, "_MAX_SESSIONS", 3)
    for name in "cdef":
        latest.begin(name)
    assert latest.is_latest("a", "anything")  # forgotten
    assert not latest.is_latest("f", "anything")
