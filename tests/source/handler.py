"""The handler inside the test source: one function for each way that a task can go.

It uses the published framework (PyPI `ogpu[service]`) as its documents say: one pydantic model in, one out, and
`start()`. Nothing in it knows about tests, tasks or the chain; the framework owns the port, the 202 and the callback.
"""

import json
import os
import threading
import time
import urllib.request

from pydantic import BaseModel, Field

from ogpu.service import expose, init, logger, start

# A client may ask for this much at most; beyond it the framework answers 422 before a handler runs.
SECONDS_MAX = 600
BYTES_MAX = 2 * 1024**3

# Many scripts, a combining accent, a pair outside the basic plane, quotes, escapes and a line end.
UNICODE_SAMPLE = "\u00e5\u00df \u0416 \u4e2d\u6587 \u0639\u0631\u0628\u0649 e\u0301 \U00010348 \"\\\" \t\n"

started_at = time.monotonic()
calls = 0
calls_lock = threading.Lock()


class Pair(BaseModel):
    a: int
    b: int


class Sum(BaseModel):
    sum: int


class Text(BaseModel):
    text: str


class Echoed(BaseModel):
    text: str
    length: int


class Delay(BaseModel):
    seconds: float = Field(ge=0, le=SECONDS_MAX)
    tag: str = ""


class Slept(BaseModel):
    seconds: float
    tag: str


class Reason(BaseModel):
    reason: str = "asked to fail"


class Size(BaseModel):
    bytes: int = Field(ge=0, le=BYTES_MAX)


class Blob(BaseModel):
    blob: str


class Nothing(BaseModel):
    pass


class Sample(BaseModel):
    text: str


class Remembered(BaseModel):
    text: str
    counts: list[int]


class Tally(BaseModel):
    calls: int
    uptime_seconds: float


@init()
def prepare():
    logger.info("the test source is prepared")


@expose()
def add(pair: Pair) -> Sum:
    return Sum(sum=pair.a + pair.b)


@expose()
def echo(text: Text) -> Echoed:
    return Echoed(text=text.text, length=len(text.text))


@expose()
def slow(delay: Delay) -> Slept:
    """Answers after `seconds`. The tag makes two answers differ, since the network refuses equal payloads."""
    time.sleep(delay.seconds)
    return Slept(seconds=delay.seconds, tag=delay.tag)


@expose()
def fail(reason: Reason) -> Nothing:
    """Raises, so that the framework never calls back."""
    raise RuntimeError(reason.reason)


@expose(timeout=1)
def stall(_: Nothing) -> Nothing:
    """Outlives its own time limit, so that the framework drops the result and never calls back."""
    time.sleep(5)
    return Nothing()


@expose()
def big(size: Size) -> Blob:
    return Blob(blob="x" * size.bytes)


@expose()
def unicode(_: Nothing) -> Sample:
    return Sample(text=UNICODE_SAMPLE)


@expose()
def remember(text: Text) -> Remembered:
    """Tells the source's other service, at every address that the compose file gives for it, one after another."""
    addresses = [os.environ[name] for name in ("OLLAMA_HOST", "OLLAMA_HOST_TOO") if name in os.environ]
    counts = []
    for address in addresses:
        with urllib.request.urlopen(address, data=text.text.encode(), timeout=10) as answer:
            counts.append(json.load(answer)["count"])
    return Remembered(text=text.text, counts=counts)


@expose()
def tally(_: Nothing) -> Tally:
    """How often this process was asked. A provider that runs a task twice shows here."""
    global calls
    with calls_lock:
        calls += 1
        return Tally(calls=calls, uptime_seconds=time.monotonic() - started_at)


if __name__ == "__main__":
    start()
