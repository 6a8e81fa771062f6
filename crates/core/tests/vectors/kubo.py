"""Measures kubo.json with a real kubo. Usage: kubo.py IPFS BLOCKS, with a throw-away repository in IPFS_PATH.

IPFS is the program `ipfs` of kubo 0.43.0 (go install github.com/ipfs/kubo/cmd/ipfs@v0.43.0), after
`ipfs init --profile=server,test`; no daemon is needed. BLOCKS is a file with the lines NAME HEX that
`FULA_PRINT_BLOCKS=1 cargo test -p fula-core --test kubo -- --nocapture` prints. The result goes to standard output.
"""

import json
import subprocess
import sys

IPFS, BLOCKS = sys.argv[1:]
MIB = 1 << 20
ADD = [
    "add", "--quieter", "--only-hash", "--cid-version=1", "--raw-leaves", "--hash=blake3",
    "--chunker=size-1048576", "--max-file-links=1024",
]
PUT = ["dag", "put", "--input-codec=dag-cbor", "--store-codec=dag-cbor", "--hash=blake3"]
SIZES = [
    0, 1, 4096, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB, 40 * MIB - 7,
    1024 * MIB, 1024 * MIB + 1, 1025 * MIB, 2 * 1024 * MIB, 2053 * MIB + 3,
]


def run(args, chunks):
    """Returns what the command prints when it is given the chunks."""
    process = subprocess.Popen([IPFS, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for chunk in chunks:
        process.stdin.write(chunk)
    process.stdin.close()
    text = process.stdout.read().decode().strip()
    if process.wait() != 0:
        raise SystemExit(f"{args} failed")
    return text


def content(size):
    """Yields a file whose n-th MiB is filled with the byte n mod 16."""
    for n in range(0, size, MIB):
        yield bytes([n // MIB % 16]) * min(MIB, size - n)


def measured(name, block):
    """Returns the address and the JSON that kubo gives a dag-cbor block."""
    cid = run(PUT, [bytes.fromhex(block)])
    text = run(["dag", "get", "--output-codec=dag-json", cid], [])
    return {"name": name, "block": block, "cid": cid, "json": json.loads(text)}


files = [{"bytes": size, "cid": run(ADD, content(size))} for size in SIZES]
with open(BLOCKS, encoding="ascii") as lines:
    blocks = [measured(*line.split()) for line in lines]
version = run(["version", "--number"], [])
print(json.dumps({"kubo": version, "files": files, "blocks": blocks}, indent=1))
