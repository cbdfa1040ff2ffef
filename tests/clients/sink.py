#!/usr/bin/env python3
"""An OTLP/HTTP server that takes everything and keeps nothing: to try the clients without Tailwater.

    sink.py [FOLDER]   prints the port it got, then a line per request: path, content type, bytes after unpacking;
                       with a folder, keeps the last body of each path there
"""

import gzip
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Sink(BaseHTTPRequestHandler):
    # The JavaScript exporter keeps its connection and sends chunks.
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.body()
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        kind = self.headers["Content-Type"]
        print(self.path, kind, len(body), flush=True)
        if len(sys.argv) > 1:
            with open(f"{sys.argv[1]}/{self.path.rsplit('/', 1)[1]}", "wb") as file:
                file.write(body)
        answer = b"{}" if kind.startswith("application/json") else b""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
print(server.server_address[1], flush=True)
server.serve_forever()
