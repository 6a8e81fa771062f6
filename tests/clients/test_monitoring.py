"""The alerts and the dashboard: a real Prometheus reads a real gateway, and every query finds data there."""

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request

import pytest
import yaml

from conftest import REPO, Gateway
from helpers import eventually, free_port

MONITORING = REPO / "deploy/monitoring"
ALERTS = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
QUERIES = {(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])}


def run(*line, **how):
    return subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=300, **how)


def test_the_alerts_are_valid_and_fire_when_they_should():
    """`alerts-test.yml` has a gateway that is well, and one that has every trouble. One alert cannot be tried
    there, where the time begins in 1970: that of a late scrub."""
    done = run("promtool", "check", "rules", MONITORING / "alerts.yml")
    assert done.returncode == 0 and f"{len(ALERTS)} rules found" in done.stdout, done.stdout + done.stderr
    done = run("promtool", "test", "rules", "alerts-test.yml", cwd=MONITORING)
    assert done.returncode == 0, done.stdout + done.stderr
    (fired,) = re.findall(r"firing.*value: (\d+)", (MONITORING / "alerts-test.yml").read_text())
    assert int(fired) == len(ALERTS) - 1


def test_every_alert_is_explained_in_the_manual():
    manual = (REPO / "docs/operations/monitor.md").read_text()
    rows = set(re.findall(r"^\| (Fula\w+) \|", manual, re.M))
    assert rows == {alert["alert"] for alert in ALERTS}


class Prometheus:
    """A Prometheus that reads one gateway every second."""

    def __init__(self, directory, gateway):
        self.url = f"http://127.0.0.1:{free_port()}"
        config = {"global": {"scrape_interval": "1s"}, "rule_files": [str(MONITORING / "alerts.yml")],
                  "scrape_configs": [{"job_name": "fula", "static_configs": [
                      {"targets": [gateway.admin.removeprefix("http://")]}]}]}
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.process = subprocess.Popen(
            [shutil.which("prometheus"), f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}",
             f"--web.listen-address={self.url.removeprefix('http://')}"],
            stdout=subprocess.DEVNULL, stderr=open(directory / "prometheus.log", "wb"))

    def get(self, path, **query):
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=120) as answer:
            return json.load(answer)["data"]

    def query(self, text):
        return self.get("query", query=text)["result"]

    def wait_for(self, text):
        def has_value():
            try:
                return self.query(text)
            except OSError:
                return False  # It does not listen yet.

        eventually(has_value, 120, lambda: f"{text} has no value")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A Prometheus with some seconds of a gateway that was used and collected."""
    directory = tmp_path_factory.mktemp("prometheus")
    gateway = Gateway(directory / "data")
    with gateway.start():
        prometheus = Prometheus(directory, gateway)
        try:
            prometheus.wait_for("fula_build_info")
            s3 = gateway.client()
            s3.create_bucket(Bucket="seen")
            # A series that appears with its first request has a rate from the second look at it on.
            for _ in range(2):
                for n in range(20):
                    s3.put_object(Bucket="seen", Key=f"k{n}", Body=b"x" * 1000)
                    s3.get_object(Bucket="seen", Key=f"k{n}")["Body"].read()
                    with pytest.raises(s3.exceptions.ClientError):
                        s3.head_object(Bucket="seen", Key="none")
                prometheus.wait_for('fula_requests_total{operation="HeadObject",status="404"}')
            gateway.fula("gc", "--now")
            prometheus.wait_for('rate(fula_requests_total{operation="HeadObject",status="404"}[10m]) > 0')
            prometheus.wait_for("increase(fula_gc_runs_total[10m]) > 0")
            yield prometheus
        finally:
            prometheus.process.kill()
            prometheus.process.wait()


def test_every_query_of_the_dashboard_returns_data(prometheus):
    assert len(QUERIES) > 30
    empty = []
    for title, query in sorted(QUERIES):
        # So long that it reaches back to the requests, however slow the machine is.
        text = query.replace("$__rate_interval", "10m").replace("$instance", ".*")
        if not prometheus.query(text):
            empty.append((title, text))
    assert empty == []


def test_the_alerts_name_metrics_and_labels_that_exist(prometheus):
    """A comparison hides a name that is mistyped: each selector alone must find series."""
    for alert in ALERTS:
        selectors = set(re.findall(r"\b((?:fula|up|process)\w*(?:\{[^}]*\})?)", alert["expr"]))
        assert selectors, alert
        for selector in selectors:
            # The values of statuses and operations that a test cannot bring about are left out.
            found = prometheus.query(re.sub(r'status=~"5.."', 'status=~"..."', selector))
            assert found, f"{alert['alert']}: {selector}"
    loaded = {rule["name"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]}
    assert loaded == {alert["alert"] for alert in ALERTS}


def test_a_gateway_that_is_well_raises_no_alert(prometheus):
    """On a machine that other tests use, too, single reads may be slow. That would have to last for an alert."""
    found = [alert for alert in prometheus.query("ALERTS") if alert["metric"]["alertname"] != "FulaSlow"]
    assert found == [] and prometheus.query('ALERTS{alertstate="firing"}') == []
