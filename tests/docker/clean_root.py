"""A Debian of its own, made from nothing: programs in it see no file and no package of ours.

Needs root and debootstrap. What a container engine does for a Dockerfile is done here by hand: a
root of its own, files copied in, steps as root, and a server as user 10001 that may write to /data
and /tmp alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SUITE = "bookworm"  # that of the python images in docker/
USER = "10001:10001"
# In a mount namespace of its own: what the container may see and write, then the program.
ENTER = """
set -e
mount --bind "$ROOT" "$ROOT"
mount --bind "$ROOT/data" "$ROOT/data"
mount -o remount,ro,bind "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs tmpfs "$ROOT/tmp"
exec chroot --userspec="$AS" "$ROOT" /usr/bin/env -i PATH=/opt/dsocr/bin:/usr/bin:/bin \
    HOME=/data PYTHONDONTWRITEBYTECODE=1 $VARIABLES "$@"
"""


def is_possible() -> bool:
    return os.geteuid() == 0 and shutil.which("debootstrap") is not None


def make_root(folder: Path) -> None:
    """The base system with Python, as `python:3.11-slim-bookworm` has it."""
    packages = "--include=python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", packages, SUITE, str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def run(root: Path, *command: str, offline: bool = False, **environment: str) -> str:
    """A step of a Dockerfile, as root. offline: without any network, not even the loop."""
    chroot = ["unshare", "--net"] if offline else []
    variables = [f"{name}={value}" for name, value in environment.items()]
    clean = ["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *variables]
    done = subprocess.run(
        [*chroot, "chroot", root, *clean, *command], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@contextmanager
def served(
    root: Path, *command: str, log: Path, variables: Mapping[str, str] = {}
) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the root as the user without rights, on a file system it cannot write to."""
    given = " ".join(f"{name}={value}" for name, value in variables.items())
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", ENTER, "sh", *command],
            env={**os.environ, "ROOT": str(root), "AS": USER, "VARIABLES": given},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
