#!/usr/bin/env bash
# Changes several keys as one step with curl: an article and the index that lists it. A reader never sees
# one without the other. The second commit is refused as a whole, because its condition does not hold.
#
# Usage: examples/commit.sh BUCKET
#
# Needs curl 7.76 or newer. AWS_ENDPOINT_URL is the address of the gateway; AWS_ACCESS_KEY_ID and
# AWS_SECRET_ACCESS_KEY are the key.
set -euo pipefail
bucket=${1:?usage: examples/commit.sh BUCKET}

# Sends a commit and prints the answer; fails unless all of it was carried out. The key is not on the
# command line, where other users of the machine could read it. `fula-commit=` has an equals sign because
# curl 7 signs parameters without one in its own way.
commit() {
  curl --silent --show-error --fail-with-body --aws-sigv4 "aws:amz:${AWS_REGION:-us-east-1}:s3" \
    --config <(printf 'user = "%s:%s"\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY") \
    -H "x-amz-content-sha256: $(printf %s "$1" | sha256sum | cut -d ' ' -f 1)" \
    -H "content-type: application/json" --data-binary "$1" "$AWS_ENDPOINT_URL/$bucket?fula-commit="
}

commit '{"changes": [
  {"put": {"key": "articles/1", "text": "Hello", "contentType": "text/plain", "ifNoneMatch": "*"}},
  {"put": {"key": "index.json", "text": "[\"articles/1\"]", "contentType": "application/json"}}]}'

# `articles/1` is there already: 412, and `index.json` stays as it was.
if commit '{"changes": [
  {"put": {"key": "articles/1", "text": "Hello again", "ifNoneMatch": "*"}},
  {"put": {"key": "index.json", "text": "[]"}}]}'; then
  echo "the condition was not kept" >&2
  exit 1
fi
