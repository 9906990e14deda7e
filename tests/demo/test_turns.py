from mura_hf.demo import controller as turns


def test_only_the_last_reading_of_a_session_may_speak():
    readings, first, second = turns.Turns(), object(), object()
    readings.begin("a", first)
    readings.begin("b", first)
    assert readings.is_last("a", first)
    readings.begin("a", second)
    assert not readings.is_last("a", first)
    assert readings.is_last("a", second)
    assert readings.is_last("b", first)


def test_no_more_sessions_are_remembered_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(turns, "_MOST", 3)
    readings = turns.Turns()
    for name in "abcd":
        readings.begin(name, name)
    assert readings.is_last("a", "anything")
    assert not readings.is_last("b", "anything")
