// Counts to a number by entity tags with the AWS SDK for JavaScript, whose own retries meet an
// endpoint that swallows answers. Prints how often it was told 412.
import { S3Client, GetObjectCommand, PutObjectCommand } from "@aws-sdk/client-s3";

const [readFrom, writeTo, bucket, key, total] = process.argv.slice(2);
const client = (endpoint) =>
  new S3Client({ endpoint, region: "us-east-1", forcePathStyle: true, maxAttempts: 12 });
const [reader, writer] = [client(readFrom), client(writeTo)];

let refused = 0;
for (let n = 0; n < Number(total); n++) {
  const seen = await reader.send(new GetObjectCommand({ Bucket: bucket, Key: key }));
  const value = Number(await seen.Body.transformToString());
  try {
    const put = { Bucket: bucket, Key: key, Body: String(value + 1), IfMatch: seen.ETag };
    await writer.send(new PutObjectCommand(put));
  } catch (error) {
    if (error.$metadata?.httpStatusCode !== 412) throw error;
    refused++;
  }
}
console.log(JSON.stringify({ refused }));
