// Package clients is what users of two Go libraries do, against the gateway that the environment names:
// AWS_ENDPOINT_URL, AWS_SHARED_CREDENTIALS_FILE and, for TLS, SSL_CERT_FILE and AWS_CA_BUNDLE.
// tests/clients/test_go.py starts the gateway.
package clients

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"slices"
	"testing"
)

const mib = 1 << 20

// pattern returns bytes that do not repeat, the same for the same seed.
func pattern(length int, seed int64) []byte {
	body := make([]byte, length)
	rand.New(rand.NewSource(seed)).Read(body)
	return body
}

// stream hides that a reader can seek and how long it is.
type stream struct{ io.Reader }

func endpoint(t *testing.T) *url.URL {
	t.Helper()
	text := os.Getenv("AWS_ENDPOINT_URL")
	if text == "" {
		t.Fatal("AWS_ENDPOINT_URL is not set: run this through tests/clients/test_go.py")
	}
	parsed, err := url.Parse(text)
	must(t, err)
	return parsed
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: got %d bytes, want %d, and they differ", what, len(got), len(want))
	}
}

func equal[V comparable](t *testing.T, what string, got, want V) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func equalNames(t *testing.T, got, want []string) {
	t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("listed %q, want %q", got, want)
	}
}

// fetch requests a presigned URL as somebody without any credentials does. Go trusts SSL_CERT_FILE.
func fetch(t *testing.T, method, target string, headers http.Header, body []byte) []byte {
	t.Helper()
	request, err := http.NewRequest(method, target, bytes.NewReader(body))
	must(t, err)
	for name, values := range headers {
		request.Header[name] = values
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{}}}
	answer, err := client.Do(request)
	must(t, err)
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	must(t, err)
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%s of a presigned URL: %s: %s", method, answer.Status, got)
	}
	return got
}
