"""The other service inside the test source: it remembers texts in a volume, and says how many there are.

It stands where a model server stands in real sources: the same port, and the same directory for what is kept.
"""

import http.server
import json
import os

PORT = 11434
KEPT = os.path.join(os.environ.get("HOME", "/root"), ".ollama", "texts")


class Store(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"]))
        with open(KEPT, "a+b") as kept:
            kept.write(json.dumps(text.decode()).encode() + b"\n")
            kept.flush()
            os.fsync(kept.fileno())
            kept.seek(0)
            count = sum(1 for _ in kept)
        body = json.dumps({"count": count}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


os.makedirs(os.path.dirname(KEPT), exist_ok=True)
http.server.HTTPServer(("0.0.0.0", PORT), Store).serve_forever()
