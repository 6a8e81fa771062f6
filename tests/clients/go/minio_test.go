package clients

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const minioBucket = "minio-go-bucket"

// minioClient sends checksums after the bodies. Over plain HTTP their chunks are signed one by one.
func minioClient(t *testing.T) *minio.Client {
	t.Helper()
	where := endpoint(t)
	client, err := minio.New(where.Host, &minio.Options{
		Creds:  credentials.NewFileAWSCredentials("", ""),
		Secure: where.Scheme == "https", TrailingHeaders: true})
	must(t, err)
	return client
}

func minioRead(t *testing.T, client *minio.Client, key string, options minio.GetObjectOptions) []byte {
	t.Helper()
	object, err := client.GetObject(context.Background(), minioBucket, key, options)
	must(t, err)
	defer object.Close()
	body, err := io.ReadAll(object)
	must(t, err)
	return body
}

func minioList(t *testing.T, client *minio.Client, prefix string) []string {
	t.Helper()
	names := []string{}
	for object := range client.ListObjects(context.Background(), minioBucket, minio.ListObjectsOptions{
		Prefix: prefix, Recursive: true, MaxKeys: 3}) {
		must(t, object.Err)
		names = append(names, object.Key)
	}
	return names
}

func TestMinioGo(t *testing.T) {
	client, ctx := minioClient(t), context.Background()
	must(t, client.MakeBucket(ctx, minioBucket, minio.MakeBucketOptions{}))
	for name, expected := range map[string]bool{minioBucket: true, "no-such-bucket": false} {
		found, err := client.BucketExists(ctx, name)
		must(t, err)
		equal(t, name, found, expected)
	}
	names := minioChecksums(t, client)
	names = append(names, minioLarge(t, client)...)
	names = append(names, minioCopies(t, client)...)
	equalNames(t, minioList(t, client, ""), names)
	equal(t, "in a directory", len(minioList(t, client, "sums/")), 5)
	minioPresigned(t, client)
	minioDelete(t, client)
}

// Every kind of checksum that the library sends after a body.
func minioChecksums(t *testing.T, client *minio.Client) []string {
	t.Helper()
	ctx, names := context.Background(), []string{}
	for _, kind := range []minio.ChecksumType{minio.ChecksumCRC32, minio.ChecksumCRC32C,
		minio.ChecksumCRC64NVME, minio.ChecksumSHA1, minio.ChecksumSHA256} {
		key, body := "sums/a b+ü "+kind.String(), pattern(70_001, int64(len(names)))
		put, err := client.PutObject(ctx, minioBucket, key, bytes.NewReader(body), int64(len(body)),
			minio.PutObjectOptions{Checksum: kind, ContentType: "text/plain", ContentEncoding: "identity-ish",
				UserMetadata: map[string]string{"Purpose": "a test"}})
		must(t, err)
		equal(t, "size", put.Size, int64(len(body)))
		same(t, key, minioRead(t, client, key, minio.GetObjectOptions{}), body)
		stat, err := client.StatObject(ctx, minioBucket, key, minio.StatObjectOptions{Checksum: true})
		must(t, err)
		equal(t, "length", stat.Size, int64(len(body)))
		equal(t, "type", stat.ContentType, "text/plain")
		equal(t, "encoding", stat.Metadata.Get("Content-Encoding"), "identity-ish")
		equal(t, "metadata", stat.UserMetadata["Purpose"], "a test")
		sums := map[minio.ChecksumType]string{minio.ChecksumCRC32: stat.ChecksumCRC32,
			minio.ChecksumCRC32C: stat.ChecksumCRC32C, minio.ChecksumCRC64NVME: stat.ChecksumCRC64NVME,
			minio.ChecksumSHA1: stat.ChecksumSHA1, minio.ChecksumSHA256: stat.ChecksumSHA256}
		equal(t, "checksum "+kind.String(), sums[kind], kind.ChecksumBytes(body).Encoded())
		names = append(names, key)
	}
	return names
}

func minioLarge(t *testing.T, client *minio.Client) []string {
	t.Helper()
	ctx, body := context.Background(), pattern(12*mib+5, 7)
	source, back := filepath.Join(t.TempDir(), "source"), filepath.Join(t.TempDir(), "back")
	must(t, os.WriteFile(source, body, 0o600))
	_, err := client.FPutObject(ctx, minioBucket, "file", source, minio.PutObjectOptions{PartSize: 5 * mib})
	must(t, err)
	must(t, client.FGetObject(ctx, minioBucket, "file", back, minio.GetObjectOptions{}))
	got, err := os.ReadFile(back)
	must(t, err)
	same(t, "file", got, body)
	for name, options := range map[string]minio.PutObjectOptions{
		"stream":      {PartSize: 5 * mib},
		"in parallel": {PartSize: 5 * mib, ConcurrentStreamParts: true, NumThreads: 2},
	} {
		_, err = client.PutObject(ctx, minioBucket, name, stream{bytes.NewReader(body)}, -1, options)
		must(t, err)
		same(t, name, minioRead(t, client, name, minio.GetObjectOptions{}), body)
	}
	_, err = client.PutObject(ctx, minioBucket, "empty", bytes.NewReader(nil), 0, minio.PutObjectOptions{})
	must(t, err)
	same(t, "empty", minioRead(t, client, "empty", minio.GetObjectOptions{}), nil)
	ranged := minio.GetObjectOptions{}
	must(t, ranged.SetRange(5*mib-3, 5*mib+3))
	same(t, "range", minioRead(t, client, "stream", ranged), body[5*mib-3:5*mib+4])
	object, err := client.GetObject(ctx, minioBucket, "stream", minio.GetObjectOptions{})
	must(t, err)
	defer object.Close()
	part := make([]byte, 1000)
	_, err = object.ReadAt(part, 6*mib)
	must(t, err)
	same(t, "ReadAt", part, body[6*mib:6*mib+1000])
	_, err = object.Seek(-1000, io.SeekEnd)
	must(t, err)
	_, err = io.ReadFull(object, part)
	must(t, err)
	same(t, "Seek", part, body[len(body)-1000:])
	return []string{"file", "stream", "in parallel", "empty"}
}

func minioCopies(t *testing.T, client *minio.Client) []string {
	t.Helper()
	ctx, large := context.Background(), minioRead(t, client, "file", minio.GetObjectOptions{})
	from := minio.CopySrcOptions{Bucket: minioBucket, Object: "file"}
	_, err := client.CopyObject(ctx, minio.CopyDestOptions{Bucket: minioBucket, Object: "copy",
		ReplaceMetadata: true, UserMetadata: map[string]string{"Copied": "yes"}}, from)
	must(t, err)
	same(t, "copy", minioRead(t, client, "copy", minio.GetObjectOptions{}), large)
	stat, err := client.StatObject(ctx, minioBucket, "copy", minio.StatObjectOptions{})
	must(t, err)
	equal(t, "metadata", stat.UserMetadata["Copied"], "yes")
	_, err = client.ComposeObject(ctx, minio.CopyDestOptions{Bucket: minioBucket, Object: "composed"}, from,
		minio.CopySrcOptions{Bucket: minioBucket, Object: "copy"})
	must(t, err)
	same(t, "composed", minioRead(t, client, "composed", minio.GetObjectOptions{}), append(large, large...))
	return []string{"copy", "composed"}
}

func minioPresigned(t *testing.T, client *minio.Client) {
	t.Helper()
	ctx, body := context.Background(), pattern(1000, 8)
	put, err := client.PresignedPutObject(ctx, minioBucket, "presigned", time.Hour)
	must(t, err)
	fetch(t, "PUT", put.String(), nil, body)
	get, err := client.PresignedGetObject(ctx, minioBucket, "presigned", time.Hour, nil)
	must(t, err)
	same(t, "presigned", fetch(t, "GET", get.String(), nil, nil), body)
}

func minioDelete(t *testing.T, client *minio.Client) {
	t.Helper()
	ctx := context.Background()
	must(t, client.RemoveObject(ctx, minioBucket, "presigned", minio.RemoveObjectOptions{}))
	_, err := client.StatObject(ctx, minioBucket, "presigned", minio.StatObjectOptions{})
	equal(t, "what was removed", minio.ToErrorResponse(err).Code, minio.NoSuchKey)
	all := client.ListObjects(ctx, minioBucket, minio.ListObjectsOptions{Recursive: true})
	for failed := range client.RemoveObjects(ctx, minioBucket, all, minio.RemoveObjectsOptions{}) {
		t.Fatalf("%s: %v", failed.ObjectName, failed.Err)
	}
	equal(t, "left", len(minioList(t, client, "")), 0)
	must(t, client.RemoveBucket(ctx, minioBucket))
}
