"""Builds the image without a daemon, and runs it as a container runtime does: its configuration, its user, a
root file system that is read-only, one volume, and namespaces of its own for mounts, processes and network."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import time

from conftest import FULA, REPO

# The binary in the image. The tests take the one that is built already, and not that of a release, which
# would take CI a quarter of an hour more.
PROGRAM = pathlib.Path(os.environ.get("FULA_IMAGE_PROGRAM", FULA))

# Runs as the first process of the container: $1 is the root, $2 the volume, the rest the command.
START = """
set -eu
root=$1 volume=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mkdir -p "$root/proc" "$root/dev"
mount -o remount,bind,ro "$root"
mount --bind "$volume" "$root/data"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
touch "$root/dev/null"
mount --bind /dev/null "$root/dev/null"
ip link set lo up
exec "$@"
"""


class Image:
    """The image that the Dockerfile makes of PROGRAM."""

    def __init__(self, directory):
        store = ["--storage-driver", "vfs", "--root", directory / "store", "--runroot", directory / "run"]
        self.buildah = lambda *line: subprocess.run(["buildah", *map(str, store), *map(str, line)],
                                                    check=True, capture_output=True, text=True).stdout
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

    def volume(self, directory):
        """A new volume, which gets the owner and the mode of its mount point as a runtime gives them."""
        directory.mkdir()
        (path,) = self.config["Volumes"]
        found = (self.root / path.lstrip("/")).stat()
        os.chown(directory, found.st_uid, found.st_gid)
        directory.chmod(found.st_mode & 0o7777)
        return directory


class Container:
    """A container that runs. `env` is added to that of the image."""

    def __init__(self, image, volume, *command, log, **env):
        self.image, self.env = image, {**image.env, **env}
        user, group = image.config["User"].split(":")
        line = [*image.config["Entrypoint"], *(command or image.config["Cmd"])]
        as_user = ["env", "-i", *(f"{name}={value}" for name, value in self.env.items()),
                   "chroot", f"--userspec=+{user}:+{group}", "--groups=", image.root, *line]
        namespaces = ["unshare", "--mount", "--pid", "--net", "--uts", "--fork", "--kill-child"]
        self.log = log
        with open(log, "ab") as out:
            self.unshare = subprocess.Popen([*namespaces, "sh", "-c", START, "sh", image.root, volume, *as_user],
                                            stdout=out, stderr=out)

    @property
    def pid(self):
        """The first process of the container, as the machine numbers it."""
        children = pathlib.Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children")
        return int(children.read_text().split()[0])

    def enter(self, *command, check=False, **env):
        """Runs a program of the machine in the network of the container."""
        return subprocess.run(["nsenter", "--target", str(self.pid), "--net", *map(str, command)],
                              capture_output=True, text=True, check=check, env={**os.environ, **env}, timeout=60)

    def run(self, *command):
        """Runs a program of the image in the container, as a health check does."""
        user, group = self.image.config["User"].split(":")
        enter = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--root", "--wd=/",
                 "--setuid", user, "--setgid", group]
        return subprocess.run([*enter, *command], capture_output=True, text=True, env=self.env, timeout=60)

    def wait_until_healthy(self):
        kind, *check = self.image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        done = None
        for _ in range(300):
            assert self.unshare.poll() is None, self.log.read_text()
            if self.has_entered():
                done = self.run(*check)
                if done.returncode == 0:
                    return done.stdout
            time.sleep(0.1)
        raise AssertionError(f"not healthy: {done}\n{self.log.read_text()}")

    def has_entered(self):
        """Whether the program of the image runs. Before that, the root is that of the machine."""
        try:
            return os.readlink(f"/proc/{self.pid}/exe").endswith(self.image.config["Entrypoint"][0])
        except (IndexError, FileNotFoundError):
            return False

    def stop(self):
        """Sends the signal of the image, and returns the exit status."""
        os.kill(self.pid, getattr(signal, self.image.config["StopSignal"]))
        return self.unshare.wait(timeout=40)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.unshare.kill()
        self.unshare.wait()
