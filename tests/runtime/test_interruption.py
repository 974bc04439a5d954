"""Signals in processes of their own: one sentence, the usual exit code, and no traceback, wherever the signal falls."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from reid_jax.runtime import interruption

# What the main thread does when the signal comes. `ready` is printed before.
MOMENTS = {
    "python": "while True: time.sleep(0.01)",
    "swallowed": """
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                pass
    """,
    # A long call into C, like that of a compiler.
    "inside C": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    "in a thread": """
        import threading
        def work():
            while interruption.received() is None: time.sleep(0.005)
            raise RuntimeError("the main thread has gone")
        thread = threading.Thread(target=work); thread.start()
        while True: time.sleep(0.01)
    """,
    "another error": """
        try:
            while True: time.sleep(0.01)
        finally:
            raise RuntimeError("a library's own trouble")
    """,
    "at the end": "interruption.end_at_once(); time.sleep(60)",
}


def start(body):
    code = """
        import sys, time
        from reid_jax.runtime import interruption
        interruption.GRACE = 0.3
        interruption.install()
        print("ready", flush=True)
    """
    code = textwrap.dedent(code) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_sentence_wherever_the_signal_falls(moment):
    for number, code, word in ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")):
        process = start(MOMENTS[moment])
        process.stdout.readline()
        time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == code, err
        assert err.strip() == f"{word}; run the same command again to continue."


def test_what_a_library_prints_from_its_own_threads_is_not_shown():
    process = start("""
        import threading
        class Lost:  # C code does the same with an exception that it cannot pass on
            def __del__(self):
                raise RuntimeError("Event loop is closed")
        def work():
            try:
                raise RuntimeError("Event loop is closed")
            except RuntimeError as error:
                sys.excepthook(type(error), error, error.__traceback__)
            Lost()
        thread = threading.Thread(target=work); thread.start(); thread.join()
        raise KeyError("a defect in the main thread is shown")
    """)
    _, err = process.communicate(timeout=20)
    assert "Event loop" not in err
    assert "a defect in the main thread is shown" in err


NOTICE = """
    stops = []
    with interruption.notice(stops.append):
        print("training", flush=True)
        while not stops: time.sleep(0.005)
        print("saving", flush=True)
        time.sleep(PAUSE)
    print("saved", flush=True)
"""


def test_a_notice_lets_the_block_save_and_a_second_signal_ends_it():
    process = start(NOTICE.replace("PAUSE", "0.6"))
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "training\n"]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "saving\nsaved\n", "")

    process = start(NOTICE.replace("PAUSE", "60"))
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "training\n"]
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert err.strip() == interruption.sentence(signal.SIGINT)
