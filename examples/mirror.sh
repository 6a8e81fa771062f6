#!/usr/bin/env bash
# Keeps a copy of a folder in a bucket, for a timer: sends what changed, and deletes what is gone. It deletes
# nothing if more than a tenth of the copy would go, so an empty or unmounted folder empties no bucket.
#
# Usage: examples/mirror.sh FOLDER BUCKET [PREFIX]
#
# Address and key come from the environment, as for every AWS tool: AWS_ENDPOINT_URL,
# AWS_SHARED_CREDENTIALS_FILE. The exit status is 0 only if the copy is complete.
set -euo pipefail
folder=${1:?usage: examples/mirror.sh FOLDER BUCKET [PREFIX]}
bucket=${2:?name the bucket}
prefix=${3:-$(basename "$folder")}

fula sync "$folder" "s3://$bucket/$prefix" --delete --max-delete 10% --exclude '*.tmp'
