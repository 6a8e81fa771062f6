"""A machine that systemd boots: namespaces of its own, with the files of this machine below, which do not change."""

import os
import pathlib
import signal
import subprocess
import time

# Nothing is started that this machine would start: only what every boot needs.
BOOT = """
mount --make-rprivate /
mount -t tmpfs -o size=1g tmpfs "$1"
mkdir -p "$1/changed" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/changed,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /sys sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for directory in run tmp dev; do mount -t tmpfs -o mode=0755 tmpfs $directory; done
chmod 1777 tmp
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
ln -s /proc/self/fd dev/fd
mkdir -m 1777 dev/shm
mkdir dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
rm -rf etc/systemd/system/*.wants etc/systemd/system/fula*
ip link set lo up
exec chroot . env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target \
  --log-target=console --show-status=no
"""


class Machine:
    """Ends with everything in it when it is left."""

    def __init__(self, directory):
        directory.mkdir()
        self.log = directory.with_suffix(".log")
        namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        with open(self.log, "wb") as out:
            self.unshare = subprocess.Popen(["unshare", *namespaces, "sh", "-ec", BOOT, "sh", directory],
                                            stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    @property
    def pid(self):
        """The first process inside, as the outside numbers it."""
        children = pathlib.Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children")
        return children.read_text().split()[0]

    def __enter__(self):
        # The limit is for a failure alone.
        end = time.monotonic() + 180
        while time.monotonic() < end:
            assert self.unshare.poll() is None, self.log.read_text()
            if self.run("systemctl", "is-active", "basic.target", check=False).stdout == "active\n":
                return self
            time.sleep(0.1)
        self.__exit__()
        raise AssertionError(self.log.read_text())

    def __exit__(self, *_):
        if self.unshare.poll() is None:
            os.kill(int(self.pid), signal.SIGKILL)
        self.unshare.wait()

    def run(self, *command, check=True, **how):
        """Runs a program of the machine as its root."""
        try:
            enter = ["nsenter", "--target", self.pid, "--all", "--root", "--wd=/"]
        except IndexError:
            return subprocess.CompletedProcess(command, 1, "", "it has not begun")
        done = subprocess.run([*enter, *map(str, command)], capture_output=True, text=True, timeout=180, **how)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.log.read_text()}"
        return done

    def copy_in(self, path, target):
        """Writes a file of the outside into the machine."""
        with open(path, "rb") as file:
            self.run("sh", "-c", f"cat > {target}", stdin=file)
