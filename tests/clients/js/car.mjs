// Reads a CAR file with @ipld/car, and prints its roots, and the number and the bytes of its blocks.
import { createReadStream } from 'node:fs'
import { CarBlockIterator } from '@ipld/car'

const reader = await CarBlockIterator.fromIterable(createReadStream(process.argv[2]))
let blocks = 0
let bytes = 0
const cids = new Set()
for await (const block of reader) {
  blocks += 1
  bytes += block.bytes.length
  cids.add(block.cid.toString())
}
const roots = (await reader.getRoots()).map((root) => root.toString())
console.log(JSON.stringify({ roots, blocks, bytes, distinct: cids.size }))
