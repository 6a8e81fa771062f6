"""File systems of a test's own that are small, fill up and fail."""

import errno
import os
import pathlib
import shlex
import subprocess


class Disk:
    """A tmpfs of so many MiB.

    Only a process of its own, the keeper, has it mounted: nothing is left of it when the test ends, however
    that happens. `path` leads to it from everywhere else.
    """

    def __init__(self, mount_point, mebibytes):
        mount_point.mkdir()
        self.mount_point, self.mebibytes = shlex.quote(str(mount_point)), mebibytes
        as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
        self.keeper = subprocess.Popen(["unshare", *as_root, "--mount", "sh"], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.path = pathlib.Path(f"/proc/{self.keeper.pid}/root{mount_point}")
        self.mount()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.keeper.stdin.close()
        self.keeper.wait(timeout=60)
        self.keeper.stdout.close()

    def run(self, command):
        """Has the keeper run a command of the shell, which must succeed."""
        self.keeper.stdin.write(f"{{ {command}; }} >&2; echo $?\n")
        self.keeper.stdin.flush()
        assert self.keeper.stdout.readline() == "0\n", command

    def mount(self):
        self.run(f"mount -t tmpfs -o mode=700,size={self.mebibytes}m tmpfs {self.mount_point}")

    @property
    def filler(self):
        return self.path / "filler"

    def fill(self):
        """Leaves not a byte for others."""
        with open(self.filler, "ab", buffering=0) as filler:
            for length in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        filler.write(bytes(length))
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error

    def make_room(self):
        """Takes back what `fill` did."""
        self.filler.unlink()


class FailingDisk(Disk):
    """An ext4 file system that becomes read-only on demand, as one does that finds an error. Needs root."""

    def mount(self):
        image = f"{self.mount_point}.image"
        self.run(f"truncate -s {self.mebibytes}M {image} && mkfs.ext4 -q -m 0 {image}")
        self.run(f"mount -o loop,errors=remount-ro {image} {self.mount_point}")
        self.run(f"chmod 700 {self.mount_point}")

    def fail(self):
        device = f"$(basename $(losetup -n -O NAME -j {self.mount_point}.image))"
        self.run(f"echo test > /sys/fs/ext4/{device}/trigger_fs_error")

    def freeze(self):
        """Lets every write and every fsync wait until `thaw`."""
        self.run(f"fsfreeze -f {self.mount_point}")

    def thaw(self):
        self.run(f"fsfreeze -u {self.mount_point}")

    def mend(self):
        """Repairs it as an operator does. No process may use it."""
        image = f"{self.mount_point}.image"
        # Its answer is 1 when it has mended errors.
        self.run(f"umount {self.mount_point} && {{ e2fsck -fy {image} || [ $? = 1 ]; }}")
        self.run(f"mount -o loop,errors=remount-ro {image} {self.mount_point}")
