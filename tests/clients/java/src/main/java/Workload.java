import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import software.amazon.awssdk.core.ResponseBytes;
import software.amazon.awssdk.core.sync.RequestBody;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.s3.S3Configuration;
import software.amazon.awssdk.services.s3.model.ChecksumAlgorithm;
import software.amazon.awssdk.services.s3.model.ChecksumMode;
import software.amazon.awssdk.services.s3.model.CompletedPart;
import software.amazon.awssdk.services.s3.model.GetObjectResponse;
import software.amazon.awssdk.services.s3.model.ObjectIdentifier;
import software.amazon.awssdk.services.s3.model.S3Exception;
import software.amazon.awssdk.services.s3.model.S3Object;
import software.amazon.awssdk.services.s3.model.ServerSideEncryption;
import software.amazon.awssdk.services.s3.presigner.S3Presigner;

/** What users of the AWS SDK for Java do. The environment names the gateway and its key. */
public class Workload {
    static final String BUCKET = "java-bucket";
    static final int MIB = 1 << 20;

    static byte[] pattern(int length, long seed) {
        byte[] body = new byte[length];
        new Random(seed).nextBytes(body);
        return body;
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static ResponseBytes<GetObjectResponse> get(S3Client s3, String key, String range) {
        return s3.getObjectAsBytes(b -> b.bucket(BUCKET).key(key).range(range).checksumMode(ChecksumMode.ENABLED));
    }

    static void objects(S3Client s3) {
        byte[] body = pattern(3 * MIB + 5, 1);
        // CRC64NVME would need the native library of the CRT.
        for (ChecksumAlgorithm algorithm : List.of(ChecksumAlgorithm.CRC32, ChecksumAlgorithm.CRC32_C, ChecksumAlgorithm.SHA256)) {
            s3.putObject(b -> b.bucket(BUCKET).key("a b/ü+").metadata(Map.of("m", "1")).checksumAlgorithm(algorithm)
                .serverSideEncryption(ServerSideEncryption.AES256), RequestBody.fromBytes(body));
            ResponseBytes<GetObjectResponse> found = get(s3, "a b/ü+", null);
            check(Arrays.equals(found.asByteArray(), body), "the whole object");
            check(found.response().metadata().equals(Map.of("m", "1")), "metadata");
            check(found.response().serverSideEncryption() == ServerSideEncryption.AES256, "encrypted");
        }
        byte[] range = get(s3, "a b/ü+", "bytes=65519-65521").asByteArray();
        check(Arrays.equals(range, Arrays.copyOfRange(body, 65519, 65522)), "a range");
        try {
            s3.putObject(b -> b.bucket(BUCKET).key("a b/ü+").ifNoneMatch("*"), RequestBody.fromString("x"));
            throw new AssertionError("it exists");
        } catch (S3Exception refused) {
            check(refused.statusCode() == 412, "a condition");
        }
        s3.copyObject(b -> b.sourceBucket(BUCKET).sourceKey("a b/ü+").destinationBucket(BUCKET).destinationKey("copy"));
        check(Arrays.equals(get(s3, "copy", null).asByteArray(), body), "a copy");
    }

    static void parts(S3Client s3) {
        String id = s3.createMultipartUpload(b -> b.bucket(BUCKET).key("parts")).uploadId();
        List<CompletedPart> done = new ArrayList<>();
        byte[] whole = new byte[11 * MIB];
        for (int n = 1; n <= 3; n++) {
            int number = n;
            byte[] part = pattern(n < 3 ? 5 * MIB : MIB, n);
            System.arraycopy(part, 0, whole, (n - 1) * 5 * MIB, part.length);
            String etag = s3.uploadPart(b -> b.bucket(BUCKET).key("parts").uploadId(id).partNumber(number),
                RequestBody.fromBytes(part)).eTag();
            done.add(CompletedPart.builder().partNumber(n).eTag(etag).build());
        }
        s3.completeMultipartUpload(b -> b.bucket(BUCKET).key("parts").uploadId(id).multipartUpload(m -> m.parts(done)));
        check(Arrays.equals(get(s3, "parts", null).asByteArray(), whole), "parts");
        byte[] second = s3.getObjectAsBytes(b -> b.bucket(BUCKET).key("parts").partNumber(2)).asByteArray();
        check(Arrays.equals(second, pattern(5 * MIB, 2)), "one part");
    }

    static void listings(S3Client s3) {
        for (int n = 0; n < 25; n++) {
            String key = String.format("many/%02d", n);
            s3.putObject(b -> b.bucket(BUCKET).key(key), RequestBody.empty());
        }
        List<String> keys = s3.listObjectsV2Paginator(b -> b.bucket(BUCKET).prefix("many/").maxKeys(10)).contents().stream()
            .map(S3Object::key).toList();
        check(keys.size() == 25 && keys.get(24).equals("many/24"), "a listing in pages");
        List<ObjectIdentifier> gone = keys.stream().map(key -> ObjectIdentifier.builder().key(key).build()).toList();
        check(s3.deleteObjects(b -> b.bucket(BUCKET).delete(d -> d.objects(gone))).deleted().size() == 25, "a batch");
    }

    static void presigned(S3Presigner presigner) throws Exception {
        HttpClient http = HttpClient.newHttpClient();
        byte[] body = pattern(70_000, 9);
        URI put = presigner.presignPutObject(b -> b.signatureDuration(Duration.ofMinutes(5))
            .putObjectRequest(p -> p.bucket(BUCKET).key("presigned"))).url().toURI();
        HttpRequest.Builder sent = HttpRequest.newBuilder(put).PUT(HttpRequest.BodyPublishers.ofByteArray(body));
        check(http.send(sent.build(), HttpResponse.BodyHandlers.discarding()).statusCode() == 200, "a presigned PUT");
        URI get = presigner.presignGetObject(b -> b.signatureDuration(Duration.ofMinutes(5))
            .getObjectRequest(p -> p.bucket(BUCKET).key("presigned"))).url().toURI();
        byte[] found = http.send(HttpRequest.newBuilder(get).build(), HttpResponse.BodyHandlers.ofByteArray()).body();
        check(Arrays.equals(found, body), "a presigned GET");
    }

    public static void main(String[] args) throws Exception {
        S3Configuration inPath = S3Configuration.builder().pathStyleAccessEnabled(true).build();
        URI endpoint = URI.create(System.getenv("AWS_ENDPOINT_URL"));
        try (S3Client s3 = S3Client.builder().region(Region.US_EAST_1).build();
             S3Presigner presigner = S3Presigner.builder().region(Region.US_EAST_1).endpointOverride(endpoint)
                 .serviceConfiguration(inPath).build()) {
            s3.createBucket(b -> b.bucket(BUCKET));
            objects(s3);
            parts(s3);
            listings(s3);
            presigned(presigner);
        }
        System.out.println("read what was written");
    }
}
