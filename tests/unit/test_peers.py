"""Processes agree on one poll to stop at, and none outlives a failure; here, as threads on a store
in memory.
"""

from __future__ import annotations

import collections
import signal
import threading
import time

import pytest

from eo_jax import peers

TIMEOUT = 0.3
# Threads end where processes would.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Store:
    """The coordination service's key-value store."""

    def __init__(self, count: int):
        self.values: dict[str, str] = {}
        self.lock = threading.Lock()
        self.answers = threading.Event()
        self.answers.set()
        self.barriers = collections.defaultdict(lambda: threading.Barrier(count))

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self.answers.wait()
        with self.lock:
            if key in self.values and not allow_overwrite:
                raise RuntimeError(f"ALREADY_EXISTS: key {key} already exists.")
            self.values[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        self.answers.wait()
        with self.lock:
            return [item for item in self.values.items() if item[0].startswith(key)]

    def key_value_delete(self, key: str) -> None:
        with self.lock:
            self.values = {k: v for k, v in self.values.items() if not k.startswith(key)}

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
        with self.lock:
            barrier = self.barriers[barrier_id]
        barrier.wait(10)


@pytest.fixture
def ends(monkeypatch) -> dict[int, tuple[int, str]]:
    """{process: (exit code, last line)}; instead of the process, the thread ends."""
    found: dict[int, tuple[int, str]] = {}

    def end(code: int, line: str) -> None:
        found[int(line.split()[1])] = code, line
        raise SystemExit

    monkeypatch.setattr(peers, "end", end)
    monkeypatch.setattr(peers, "_PERIOD", 0.01)
    monkeypatch.setattr(peers, "_AGREEING", 0.001)
    monkeypatch.setattr(peers, "_LAST_WORDS", 0.2)
    return found


@pytest.fixture
def store() -> Store:
    return Store(3)


@pytest.fixture
def three(store, ends):
    found = together(lambda k: peers.Peers(store, k, 3, TIMEOUT), range(3))
    together(lambda peer: peer.meet(), found)
    yield found
    for peer in found:
        peer._over.set()


def together(function, items) -> list:
    """The results of a function in a thread per item."""
    results = {}
    threads = [
        threading.Thread(target=lambda item=item: results.update({item: function(item)}))
        for item in items
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return [results[item] for item in items]


def wait_for(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


def test_all_stop_at_the_same_poll_whoever_was_asked(three):
    three[1]._request(signal.SIGINT, None)

    def polls(peer) -> int:
        count = 1
        while not peer.poll():
            count += 1
            time.sleep(0.001 * (1 + peer.index))  # one is far ahead of the others
        return count

    assert len(set(together(polls, three))) == 1
    assert {peer.stopped_by.split(" (")[0] for peer in three} == {"process 1"}
    assert all(peer.stopped_by.endswith("received SIGINT") for peer in three)
    assert [peer.poll() for peer in three] == [True] * 3
    assert [peer.outcome(done=False) for peer in three] == [143] * 3


def test_an_announced_error_stops_all_two_polls_later_at_most(three):
    for peer in three:
        peer.poll()
    three[0].poll()  # one step ahead
    error = ValueError("record 7 cannot be decoded")
    three[2].announce(error)
    assert [three[2].poll() or three[2].poll(), three[1].poll() or three[1].poll()] == [True, True]
    assert three[0].poll()
    with pytest.raises(ValueError, match="record 7"):
        three[2].outcome(done=False)
    assert [peer.outcome(done=False) for peer in three[:2]] == [75, 75]
    assert three[0].stopped_by.endswith("failed at step 0: record 7 cannot be decoded")


def test_a_failure_ends_all_with_its_step_and_cause(three, ends):
    three[1].step = 12
    with pytest.raises(SystemExit):
        three[1].fail(ValueError("disk\nfull"))
    wait_for(lambda: len(ends) == 3)
    assert ends[1][0] == 1 and ends[1][1].endswith("step 12: error: disk full")
    for k in (0, 2):
        code, line = ends[k]
        assert code == 75 and "ended because process 1 (" in line
        assert line.endswith("failed at step 12: disk full")


def test_a_broken_collective_is_blamed_on_the_process_that_is_lost(three, ends):
    three[2].step = 5
    wait_for(lambda: three[0]._seen.get(2, ("[0, 0]", 0))[0].endswith("5]"))
    three[2]._over.set()  # killed, as far as the others can tell
    error = ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
    threading.Thread(target=three[1].fail, args=(error,), daemon=True).start()
    wait_for(lambda: {0, 1} <= set(ends))
    for k in (0, 1):
        assert ends[k][0] == 75
        assert "process 2 (" in ends[k][1] and "is lost since step 5" in ends[k][1]


def test_a_store_without_an_answer_ends_the_others(three, store, ends):
    store.answers.clear()
    wait_for(lambda: len(ends) == 3)
    store.answers.set()
    assert ends[2][0] == 75 and "process 0 (" in ends[2][1] and "not answered" in ends[2][1]


def test_gather_gives_every_value_to_all_and_leaves_little_behind(three, store):
    for turn in range(3):
        found = together(lambda peer, turn=turn: peer.gather({"bad": [turn, peer.index]}), three)
        assert found == [[{"bad": [turn, k]} for k in range(3)]] * 3
    kept = [key for key in store.values if "/gather/" in key]
    assert len(kept) <= 2 * len(three)


def test_an_agreement_while_others_are_at_their_end_holds_nobody_up(three):
    ended = [threading.Thread(target=peer.finish, daemon=True) for peer in three[:2]]
    for thread in ended:
        thread.start()
    three[2]._request(signal.SIGTERM, None)
    wait_for(lambda: three[2]._sync)
    assert [three[2].poll(), three[2].outcome(done=True)] == [True, 0]
    three[2].finish()
    for thread in ended:
        thread.join(10)
        assert not thread.is_alive()


def test_sigterm_stops_a_run_of_one_process():
    handler = signal.getsignal(signal.SIGTERM)
    alone = peers.Alone()
    assert not alone.poll() and alone.outcome(done=True) == 0
    signal.raise_signal(signal.SIGTERM)
    assert alone.poll() and alone.stopped_by == "SIGTERM" and alone.outcome(done=False) == 143
    signal.signal(signal.SIGTERM, handler)
