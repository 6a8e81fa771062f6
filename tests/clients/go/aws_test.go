package clients

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

const awsBucket = "go-sdk-bucket"

// awsClient has the configuration that the environment gives and no other.
func awsClient(t *testing.T) *s3.Client {
	t.Helper()
	equal(t, "scheme", endpoint(t).Scheme, "https")
	loaded, err := config.LoadDefaultConfig(context.Background())
	must(t, err)
	return s3.NewFromConfig(loaded)
}

func awsRead(t *testing.T, client *s3.Client, input *s3.GetObjectInput) (*s3.GetObjectOutput, []byte) {
	t.Helper()
	input.Bucket = aws.String(awsBucket)
	got, err := client.GetObject(context.Background(), input)
	must(t, err)
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	must(t, err)
	return got, body
}

func awsList(t *testing.T, client *s3.Client, prefix string) []string {
	t.Helper()
	names := []string{}
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{
		Bucket: aws.String(awsBucket), Prefix: aws.String(prefix), MaxKeys: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(context.Background())
		must(t, err)
		for _, object := range page.Contents {
			names = append(names, *object.Key)
		}
	}
	return names
}

// Over TLS the SDK sends small bodies with a trailing checksum as well, and so with two lines of
// Content-Encoding when the object has one of its own.
func TestAWSSDK(t *testing.T) {
	client, ctx := awsClient(t), context.Background()
	_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(awsBucket)})
	must(t, err)
	awsEncoded(t, client)
	awsLarge(t, client)
	awsConditions(t, client)
	awsPresigned(t, client)
	equalNames(t, awsList(t, client, ""), []string{"copy", "encoded/a b+ü", "large", "once", "presigned"})
	equalNames(t, awsList(t, client, "encoded/"), []string{"encoded/a b+ü"})
	awsDelete(t, client)
}

func awsEncoded(t *testing.T, client *s3.Client) {
	t.Helper()
	ctx, key, plain := context.Background(), aws.String("encoded/a b+ü"), pattern(70_000, 1)
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	_, err := writer.Write(plain)
	must(t, err)
	must(t, writer.Close())
	metadata := map[string]string{"purpose": "a test", "empty": ""}
	put, err := client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String(awsBucket), Key: key, Body: bytes.NewReader(packed.Bytes()),
		ContentEncoding: aws.String("gzip"), ContentType: aws.String("text/plain"), Metadata: metadata})
	must(t, err)
	// The default checksum of the SDK.
	if aws.ToString(put.ChecksumCRC32) == "" && aws.ToString(put.ChecksumCRC64NVME) == "" {
		t.Fatalf("no checksum was answered: %+v", put)
	}
	got, body := awsRead(t, client, &s3.GetObjectInput{Key: key})
	same(t, "as sent", body, packed.Bytes())
	equal(t, "encoding", aws.ToString(got.ContentEncoding), "gzip")
	equal(t, "type", aws.ToString(got.ContentType), "text/plain")
	equal(t, "ETag", aws.ToString(got.ETag), aws.ToString(put.ETag))
	equal(t, "metadata", len(got.Metadata), len(metadata))
	for name, value := range metadata {
		equal(t, name, got.Metadata[name], value)
	}
	reader, err := gzip.NewReader(bytes.NewReader(body))
	must(t, err)
	unpacked, err := io.ReadAll(reader)
	must(t, err)
	same(t, "unpacked", unpacked, plain)
	ranged, part := awsRead(t, client, &s3.GetObjectInput{Key: key, Range: aws.String("bytes=10-19")})
	same(t, "range", part, packed.Bytes()[10:20])
	equal(t, "status of a range", aws.ToInt64(ranged.ContentLength), 10)
	_, part = awsRead(t, client, &s3.GetObjectInput{Key: key, Range: aws.String("bytes=-7")})
	same(t, "the end", part, packed.Bytes()[packed.Len()-7:])
}

// The transfer manager sends a stream of unknown length in parts.
func awsLarge(t *testing.T, client *s3.Client) {
	t.Helper()
	ctx, key, body := context.Background(), aws.String("large"), pattern(20*mib+3, 2)
	done, err := manager.NewUploader(client).Upload(ctx, &s3.PutObjectInput{
		Bucket: aws.String(awsBucket), Key: key, Body: stream{bytes.NewReader(body)},
		ContentEncoding: aws.String("gzip")})
	must(t, err)
	equal(t, "parts", len(done.CompletedParts), 5)
	back := manager.NewWriteAtBuffer(nil)
	_, err = manager.NewDownloader(client).Download(ctx, back, &s3.GetObjectInput{
		Bucket: aws.String(awsBucket), Key: key})
	must(t, err)
	same(t, "large", back.Bytes(), body)
	head, err := client.HeadObject(ctx, &s3.HeadObjectInput{
		Bucket: aws.String(awsBucket), Key: key, ChecksumMode: types.ChecksumModeEnabled})
	must(t, err)
	equal(t, "length", aws.ToInt64(head.ContentLength), int64(len(body)))
	equal(t, "encoding", aws.ToString(head.ContentEncoding), "gzip")
	_, err = client.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket: aws.String(awsBucket), Key: aws.String("copy"), CopySource: aws.String(awsBucket + "/large")})
	must(t, err)
	_, copied := awsRead(t, client, &s3.GetObjectInput{Key: aws.String("copy")})
	same(t, "copy", copied, body)
	// An upload that is given up leaves nothing.
	begun, err := client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: aws.String(awsBucket), Key: aws.String("given up")})
	must(t, err)
	_, err = client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: aws.String(awsBucket), Key: aws.String("given up"), UploadId: begun.UploadId,
		PartNumber: aws.Int32(1), Body: bytes.NewReader(body[:mib])})
	must(t, err)
	_, err = client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket: aws.String(awsBucket), Key: aws.String("given up"), UploadId: begun.UploadId})
	must(t, err)
	left, err := client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: aws.String(awsBucket)})
	must(t, err)
	equal(t, "uploads left", len(left.Uploads), 0)
}

func awsConditions(t *testing.T, client *s3.Client) {
	t.Helper()
	ctx, once := context.Background(), func() *s3.PutObjectInput {
		return &s3.PutObjectInput{Bucket: aws.String(awsBucket), Key: aws.String("once"),
			Body: bytes.NewReader([]byte("first")), IfNoneMatch: aws.String("*")}
	}
	_, err := client.PutObject(ctx, once())
	must(t, err)
	_, err = client.PutObject(ctx, once())
	var refused *awshttp.ResponseError
	if !errors.As(err, &refused) || refused.HTTPStatusCode() != http.StatusPreconditionFailed {
		t.Fatalf("a second creation: %v", err)
	}
	_, err = client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(awsBucket), Key: aws.String("none")})
	var missing *types.NoSuchKey
	if !errors.As(err, &missing) {
		t.Fatalf("a key that is not there: %v", err)
	}
}

func awsPresigned(t *testing.T, client *s3.Client) {
	t.Helper()
	ctx, signer, body := context.Background(), s3.NewPresignClient(client), pattern(mib, 3)
	put, err := signer.PresignPutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String(awsBucket), Key: aws.String("presigned")})
	must(t, err)
	fetch(t, put.Method, put.URL, put.SignedHeader, body)
	get, err := signer.PresignGetObject(ctx, &s3.GetObjectInput{
		Bucket: aws.String(awsBucket), Key: aws.String("presigned")})
	must(t, err)
	same(t, "presigned", fetch(t, get.Method, get.URL, get.SignedHeader, nil), body)
}

func awsDelete(t *testing.T, client *s3.Client) {
	t.Helper()
	ctx, all := context.Background(), &types.Delete{}
	for _, name := range awsList(t, client, "") {
		all.Objects = append(all.Objects, types.ObjectIdentifier{Key: aws.String(name)})
	}
	done, err := client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: aws.String(awsBucket), Delete: all})
	must(t, err)
	equal(t, "failed deletions", len(done.Errors), 0)
	equal(t, "deletions", len(done.Deleted), len(all.Objects))
	equal(t, "left", len(awsList(t, client, "")), 0)
	_, err = client.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: aws.String(awsBucket)})
	must(t, err)
	_, err = client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: aws.String(awsBucket)})
	var gone *types.NotFound
	if !errors.As(err, &gone) {
		t.Fatalf("a bucket that was deleted: %v", err)
	}
}
