// Uploads, lists, downloads and deletes with the AWS SDK for JavaScript and the credentials that
// its default chain finds.
import {
  S3Client, CreateBucketCommand, DeleteObjectCommand, GetObjectCommand, ListObjectsV2Command,
  PutObjectCommand,
} from "@aws-sdk/client-s3";

const [endpoint, bucket] = process.argv.slice(2);
const client = new S3Client({ endpoint, region: "us-east-1", forcePathStyle: true });
const send = (command) => client.send(command);
await send(new CreateBucketCommand({ Bucket: bucket }));
await send(new PutObjectCommand({ Bucket: bucket, Key: "k", Body: "from JavaScript" }));
const listed = await send(new ListObjectsV2Command({ Bucket: bucket }));
const got = await send(new GetObjectCommand({ Bucket: bucket, Key: "k" }));
const body = await got.Body.transformToString();
await send(new DeleteObjectCommand({ Bucket: bucket, Key: "k" }));
const after = await send(new ListObjectsV2Command({ Bucket: bucket }));
const { accessKeyId } = await client.config.credentials();
console.log(JSON.stringify({ keys: listed.Contents.map((o) => o.Key), body, left: after.KeyCount, accessKeyId }));
