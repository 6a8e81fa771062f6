"""A browser uploads from another origin: a presigned PUT, and a form.

It is the headless Chromium of Debian. It decides by itself what it asks before, and what the page may read.
"""

import base64
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import threading

import pytest

from helpers import pattern

PAGE = """<!doctype html><title>uploads</title><script type="module">
const world = await (await fetch("world.json")).json();
const bytes = Uint8Array.from(atob(world.body), c => c.charCodeAt(0));
async function tried(make) {
  try {
    const answer = await make();
    return {status: answer.status, etag: answer.headers.get("etag"), hidden: answer.headers.get("x-fula-version")};
  } catch (error) {
    return {error: error.name};
  }
}
function form() {
  const form = new FormData();
  for (const [name, value] of Object.entries(world.fields)) form.append(name, value);
  form.append("file", new Blob([bytes], {type: "image/png"}), "photo.png");
  return form;
}
const put = {method: "PUT", body: bytes, headers: {"Content-Type": "image/png", "x-amz-meta-from": "browser"}};
const done = {
  put: await tried(() => fetch(world.url, put)),
  form: await tried(() => fetch(world.action, {method: "POST", body: form()})),
  read: await tried(() => fetch(world.get)),
  closed: await tried(() => fetch(world.closed, put)),
};
await fetch("done", {method: "POST", body: JSON.stringify(done)});
</script>"""


class Site:
    """Serves the page from an origin of its own, and takes what it found."""

    def __init__(self, world):
        done = self.done = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, body, kind):
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                if self.path == "/world.json":
                    return self.answer(json.dumps(world).encode(), "application/json")
                self.answer(PAGE.encode(), "text/html")

            def do_POST(self):
                done.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.answer(b"", "text/plain")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Another host name is another origin, as the port is.
        self.origin = f"http://localhost:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def browser(tmp_path):
    """Opens a page in a fresh profile."""
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    assert program, "there is no Chromium: run `make tools`"
    started = []

    def visit(url):
        command = [program, "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   # A container allows no user namespaces, and everything that is opened is ours.
                   "--no-sandbox", "--no-proxy-server", f"--user-data-dir={tmp_path}/profile",
                   "--remote-debugging-port=0", url]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        start_new_session=True))
    yield visit
    for process in started:
        # The program of Debian is a script, which starts the browser.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def test_a_browser_uploads_across_origins(gateway, s3, bucket, browser):
    body = pattern(3_000_000)
    s3.create_bucket(Bucket=f"{bucket}-closed")
    world = {"body": base64.b64encode(body).decode(), "action": f"{gateway.url}/{bucket}"}
    site = Site(world)
    rule = {"AllowedOrigins": [site.origin], "AllowedMethods": ["PUT", "POST", "GET"],
            "AllowedHeaders": ["content-type", "x-amz-*"], "ExposeHeaders": ["ETag"]}
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    params = lambda bucket: {"Bucket": bucket, "Key": "put.png", "ContentType": "image/png", "Metadata": {"from": "browser"}}
    presigned = s3.generate_presigned_url
    world["url"] = presigned("put_object", params(bucket))
    world["closed"] = presigned("put_object", params(f"{bucket}-closed"))
    world["get"] = presigned("get_object", {"Bucket": bucket, "Key": "put.png"})
    form = s3.generate_presigned_post(bucket, "${filename}", Fields={"acl": "private"}, Conditions=[{"acl": "private"}])
    world["fields"] = form["fields"]
    browser(f"{site.origin}/")
    done = site.done.get(timeout=60)
    site.server.shutdown()
    etags = {key: s3.head_object(Bucket=bucket, Key=key)["ETag"] for key in ("put.png", "photo.png")}
    # The page reads what the rule exposes, and nothing else.
    assert done["put"] == {"status": 200, "etag": etags["put.png"], "hidden": None}
    assert done["form"] == {"status": 204, "etag": etags["photo.png"], "hidden": None}
    assert done["read"] == {"status": 200, "etag": etags["put.png"], "hidden": None}
    for key in ("put.png", "photo.png"):
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body
    head = s3.head_object(Bucket=bucket, Key="put.png")
    assert (head["ContentType"], head["Metadata"]) == ("image/png", {"from": "browser"})
    # A bucket without rules lets no other origin in: the preflight fails, and nothing is stored.
    assert done["closed"] == {"error": "TypeError"}
    assert "Contents" not in s3.list_objects_v2(Bucket=f"{bucket}-closed")
