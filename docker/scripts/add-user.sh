#!/bin/sh
# Makes the user that serves (id 10001, no password, no shell) and the folders it may write.
set -eu
id=10001
if ! getent passwd "$id" >/dev/null; then
  useradd --uid "$id" --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin dsocr
fi
mkdir -p /data /models
chown "$id:$id" /data /models
