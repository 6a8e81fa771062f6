"""A server between a client and a gateway: it counts requests, and a test can act in the middle of one."""

import http.client
import http.server
import socketserver
import threading
import typing


class Seen(typing.NamedTuple):
    method: str
    target: str
    range: str


class Between(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Passes everything on as it is, so signatures hold: the client signs the address of this server."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, gateway):
        super().__init__(("127.0.0.1", 0), Handler)
        self.gateway, self.seen, self.lock = gateway, [], threading.Lock()
        # Called with method and target before the gateway gets a request. It may wait, and an error ends the
        # connection.
        self.arrives = lambda method, target: None
        # Called with method, target and the number of bytes of the answer that were passed on.
        self.passed = lambda method, target, count: None

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that was killed is what some tests want."""

    def new(self):
        """The requests since the last call."""
        with self.lock:
            seen, self.seen = self.seen, []
        return seen


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def forward(self):
        between, method, target = self.server, self.command, self.path
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with between.lock:
            between.seen.append(Seen(method, target, self.headers.get("range", "")))
        between.arrives(method, target)
        upstream = http.client.HTTPConnection(between.gateway.listen, timeout=120)
        upstream.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if answer.getheader("content-length") is None and method != "HEAD" and answer.status not in (204, 304):
            # The end of the connection is the end of the body.
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        count = 0
        while piece := answer.read1(65536):
            self.wfile.write(piece)
            count += len(piece)
            between.passed(method, target, count)
        upstream.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward
