"""A source that does what a test tells it, with the standard library alone, so that it starts in no time.

It keeps the service contract of the network: `POST /run/{function}/{task}` is answered 202, and the result is posted to
`$CALLBACK_URL/{task}`. The function says how it misbehaves.
"""

import http.client
import http.server
import json
import os
import threading
import time
import urllib.parse

CALLBACK = urllib.parse.urlsplit(os.environ["CALLBACK_URL"])
PIECE = b"x" * (1 << 20)

lock = threading.Lock()
# Per task: how often it was posted here, and what became of callbacks.
posts = {}
told = {}


def call_back(task, body):
    """Posts a result; returns the status, or what stood in the way."""
    connection = http.client.HTTPConnection(CALLBACK.hostname, CALLBACK.port, timeout=60)
    try:
        path = f"{CALLBACK.path}/{task}"
        connection.request("POST", path, body=body, headers={"Content-Type": "application/json"})
        return connection.getresponse().status
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


def pieces(size):
    """A JSON string of about `size` bytes, never whole in memory."""
    yield b'"'
    for _ in range(size // len(PIECE)):
        yield PIECE
    yield b'"'


def work(function, task, data):
    """What happens after the 202."""
    # The task stands in every result, because the network refuses equal payloads.
    result = {"task": task, "data": data, "posts": posts[task]}
    if function == "never":
        return
    if function == "die":
        os._exit(3)
    if function == "big":
        told[task] = [call_back(task, pieces(data["bytes"]))]
        return
    if function == "notjson":
        told[task] = [call_back(task, b"{ this is not JSON")]
        return
    if function == "forge":
        result["forged"] = call_back("0x" + "ab" * 20, b"{}")
    if function == "report":
        result["told"] = told.get(data["task"])
    time.sleep(data.get("seconds", 0))
    body = json.dumps(result).encode()
    statuses = [call_back(task, body)]
    if function == "twice":
        statuses.append(call_back(task, json.dumps({"task": task, "second": True}).encode()))
    told[task] = statuses


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _, _, function, task = self.path.split("/")
        data = json.loads(body)
        with lock:
            posts[task] = posts.get(task, 0) + 1
        if function == "status":
            return self.answer(data["code"])
        if function == "busy" and posts[task] <= data["times"]:
            return self.answer(data["code"])
        self.answer(202)
        threading.Thread(target=work, args=(function, task, data), daemon=True).start()

    def answer(self, code):
        self.send_response(code)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", 5555), Handler).serve_forever()
