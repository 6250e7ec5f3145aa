"""A completions server that does what a script says; run as a process of its own.

Takes one argument, the script in JSON: for every first token of a prompt (or "models" for GET) what
to do at its first request, its second and so on; the last holds from there on. What to do:

    {"status": 200, "body": "...", "sleep": 0, "cut": null}    cut: bytes of the body that are sent
    {"exit": true}                                             the process ends at once

Prints its port, then every request as a line of JSON before it answers it.
"""

import collections
import http.server
import json
import os
import sys
import threading
import time

SCRIPT = json.loads(sys.argv[1])
SEEN: collections.Counter[str] = collections.Counter()
LOCK = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer("models", None)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(str(body["prompt"][0]), body)

    def answer(self, name, body):
        with LOCK:
            turns = SCRIPT[name]
            turn = turns[min(SEEN[name], len(turns) - 1)]
            SEEN[name] += 1
            request = {"path": self.path, "key": self.headers.get("Authorization"), "body": body}
            print(json.dumps(request), flush=True)
        if turn.get("exit"):
            os._exit(1)
        time.sleep(turn.get("sleep", 0))
        content = turn["body"].encode()
        self.send_response(turn.get("status", 200))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        # Fewer bytes than were promised; then the connection closes.
        self.wfile.write(content[: turn.get("cut")])

    def log_message(self, *_):
        pass


class Listening(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # with the 5 of Python a busy machine refuses some of many at once


if __name__ == "__main__":
    server = Listening(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
