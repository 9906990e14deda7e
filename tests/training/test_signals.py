import signal
import threading

import pytest

from mura_hf.training import signals
from mura_hf.training.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_what_held_before_comes_back(number):
    before = signal.getsignal(number)
    with StopSignals() as noted:
        assert noted.received == 0
        signal.raise_signal(number)
        signal.raise_signal(number)  # as a launcher passes it on
        assert noted.received == number
    assert signal.getsignal(number) is before


def test_the_first_counts():
    with StopSignals() as noted:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert noted.received == signal.SIGINT


def test_an_impatient_ctrl_c_ends_it(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: clock[0])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    try:
        with StopSignals() as noted:
            signal.raise_signal(signal.SIGINT)
            clock[0] += 10
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert noted.received == signal.SIGINT


def test_another_thread_notes_nothing_and_fails_at_nothing():
    noted = []

    def run():
        with StopSignals() as signals_:
            noted.append(signals_.received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert noted == [0]
