#!/usr/bin/env bash
# Backs a gateway up, for a timer: makes a backup, reads it back in full once a week, and keeps 30.
#
# Usage: examples/nightly.sh DATA_DIR PLACE KEY_FILE
#
# PLACE is a directory or s3://bucket/prefix. KEY_FILE encrypts the backups; `fula secrets keygen` makes it. Keep a
# copy of it apart from the backups. The exit status is 0 only if everything of the gateway is in the backup:
# let the timer send a message otherwise.
set -euo pipefail
data_dir=${1:?usage: examples/nightly.sh DATA_DIR PLACE KEY_FILE}
place=${2:?name the place of the backups}
key_file=${3:?name the file of the key}

fula backup create "$place" --key-file "$key_file" --with-secrets-key --keep 30 --data-dir "$data_dir"
if [ "$(date +%u)" = 7 ] || [ -n "${VERIFY:-}" ]; then
  fula backup verify "$place" --key-file "$key_file"
fi
