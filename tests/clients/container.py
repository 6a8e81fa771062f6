"""Builds the image without a daemon, and runs it as a container runtime does: its configuration, its user, a
root file system that is read-only, volumes, and namespaces of its own for mounts, processes and network."""

import functools
import json
import os
import pathlib
import shlex
import signal
import subprocess

from conftest import FULA, REPO
from helpers import eventually

# The binary in the image. The tests take the one that is built already, and not that of a release, which
# would take CI a quarter of an hour more.
PROGRAM = pathlib.Path(os.environ.get("FULA_IMAGE_PROGRAM", FULA))


class Image:
    """The image that the Dockerfile makes of PROGRAM."""

    def __init__(self, directory):
        store = ["--storage-driver", "vfs", "--root", directory / "store", "--runroot", directory / "run"]
        self.buildah = lambda *line: subprocess.run(["buildah", *map(str, [*store, *line])], check=True,
                                                    capture_output=True, text=True).stdout
        context = directory / "context"
        context.mkdir(parents=True)
        subprocess.run([REPO / "deploy/image/layout", PROGRAM, context / "image"], check=True)
        # What the first stage would build is there: the stage of this name is not run.
        self.buildah("build", "--format", "docker", "--isolation", "chroot", "--build-context", f"build={context}",
                     "--build-arg", "FULA_COMMIT=", "-t", "fula", REPO)
        inspected = json.loads(self.buildah("inspect", "--type", "image", "fula"))
        self.config = inspected["Docker"]["config"]
        container = self.buildah("from", "fula").strip()
        self.root = pathlib.Path(self.buildah("mount", container).strip())

    @functools.cached_property
    def size(self):
        """Bytes of all files."""
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]
        return sum(path.stat().st_size for path in files)

    @functools.cached_property
    def env(self):
        return dict(setting.split("=", 1) for setting in self.config["Env"])

    def volume(self, directory, path="/data"):
        """A new volume for a path, whose owner and mode it gets, as a runtime does it."""
        directory.mkdir()
        found = (self.root / path.lstrip("/")).stat()
        os.chown(directory, found.st_uid, found.st_gid)
        directory.chmod(found.st_mode & 0o7777)
        return directory


def script(root, mounts, has_network):
    """What the first process of a container does before it becomes the program."""
    at = lambda path: shlex.quote(f"{root}{path}")
    lines = ["set -eu", "mount --make-rprivate /", f"mount --bind {at('')} {at('')}",
             f"mkdir -p {at('/proc')} {at('/dev')} {at('/run')}", f"touch {at('/etc/hosts')}",
             f"mount -o remount,bind,ro {at('')}", f"mount -t proc proc {at('/proc')}"]
    for path in ["/dev", "/run"]:
        lines.append(f"mount -t tmpfs -o mode=0755 tmpfs {at(path)}")
    lines.append(f"mount -t tmpfs -o mode=1777 tmpfs {at('/tmp')}")
    for source, target in [("/dev/null", "/dev/null"), *mounts]:
        if target.startswith("/run/") or target.startswith("/dev/"):
            lines.append(f"mkdir -p {at(os.path.dirname(target))}; touch {at(target)}")
        lines.append(f"mount --bind {shlex.quote(str(source))} {at(target)}")
    lines.append("ip link set lo up")
    if has_network:
        lines.append("until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done")
    return "\n".join([*lines, 'exec "$@"'])


class Network:
    """A network between containers, in a namespace of its own."""

    def __init__(self):
        begin = ("ip link set lo up; ip link add br0 type bridge; ip addr add 10.77.0.1/24 dev br0; "
                 "ip link set br0 up; echo; exec sleep infinity")
        self.holder = subprocess.Popen(["unshare", "--net", "sh", "-ec", begin], stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        self.count = 1

    def enter(self, *command, **how):
        """Runs a program of the machine in the network."""
        return subprocess.run(["nsenter", "--target", str(self.holder.pid), "--net", *map(str, command)],
                              capture_output=True, text=True, timeout=120, **how)

    def attach(self, pid, address):
        """Connects the network namespace of a process."""
        self.count += 1
        name = f"v{self.count}"
        inside = ["nsenter", "--target", str(pid), "--net"]
        steps = [["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid)],
                 ["ip", "link", "set", name, "master", "br0", "up"],
                 [*inside, "ip", "addr", "add", f"{address}/24", "dev", "eth0"],
                 [*inside, "ip", "link", "set", "eth0", "up"]]
        for step in steps:
            self.enter(*step, check=True)

    def stop(self):
        self.holder.kill()
        self.holder.wait()


class Process:
    """A program in namespaces of its own, which end with it."""

    def __init__(self, command, log, network=None, address=None):
        self.log = log
        namespaces = ["unshare", "--mount", "--pid", "--net", "--uts", "--fork", "--kill-child"]
        with open(log, "ab") as out:
            self.unshare = subprocess.Popen([*namespaces, *map(str, command)], stdout=out, stderr=out)
        if network:
            # The child has its namespaces from its first moment.
            eventually(self.children)
            network.attach(self.pid, address)

    def children(self):
        children = pathlib.Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children")
        return children.read_text().split()

    @property
    def pid(self):
        """The first process inside, as the machine numbers it."""
        return int(self.children()[0])

    def __enter__(self):
        return self

    def kill(self):
        """Ends the program without any warning, and waits until all of it is gone."""
        if self.unshare.poll() is None and self.children():
            os.kill(self.pid, signal.SIGKILL)
        self.unshare.wait()

    def __exit__(self, *_):
        self.kill()


class Container(Process):
    """A container that runs. `env` is added to that of the image; `mounts` are pairs of a path and its place."""

    def __init__(self, image, mounts, *command, log, network=None, address=None, **env):
        self.image, self.env = image, {**image.env, **env}
        user, group = image.config["User"].split(":")
        line = [*image.config["Entrypoint"], *(command or image.config["Cmd"])]
        as_user = ["env", "-i", *(f"{name}={value}" for name, value in self.env.items()),
                   "chroot", f"--userspec=+{user}:+{group}", "--groups=", image.root, *line]
        start = script(image.root, mounts, network is not None)
        super().__init__(["sh", "-c", start, "sh", *as_user], log, network, address)

    def enter(self, *command, check=False, **env):
        """Runs a program of the machine in the network of the container."""
        return subprocess.run(["nsenter", "--target", str(self.pid), "--net", *map(str, command)],
                              capture_output=True, text=True, check=check, env={**os.environ, **env}, timeout=120)

    def run(self, *command):
        """Runs a program of the image in the container, as a health check does."""
        user, group = self.image.config["User"].split(":")
        enter = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--root", "--wd=/",
                 "--setuid", user, "--setgid", group]
        return subprocess.run([*enter, *command], capture_output=True, text=True, env=self.env, timeout=120)

    def wait_until_healthy(self):
        kind, *check = self.image.config["Healthcheck"]["Test"]
        assert kind == "CMD"

        def healthy():
            assert self.unshare.poll() is None, self.log.read_text()
            done = self.run(*check) if self.has_entered() else None
            return done if done and done.returncode == 0 else None

        return eventually(healthy, 120, self.log.read_text).stdout

    def has_entered(self):
        """Whether the program of the image runs. Before that, the root is that of the machine."""
        try:
            return os.readlink(f"/proc/{self.pid}/exe").endswith(self.image.config["Entrypoint"][0])
        except (IndexError, FileNotFoundError):
            return False

    def stop(self):
        """Sends the signal of the image, and returns the exit status."""
        os.kill(self.pid, getattr(signal, self.image.config["StopSignal"]))
        return self.unshare.wait(timeout=60)
