"""Signature version 4 by hand, so that a test can leave out or falsify any part of it."""

import datetime
import hashlib
import hmac
import urllib.parse

REGION = "us-east-1"


def quote(text, safe="-_.~"):
    return urllib.parse.quote(text, safe=safe)


def canonical_query(query):
    pairs = [pair.partition("=")[::2] for pair in query.split("&") if pair]
    pairs = [(quote(urllib.parse.unquote_plus(name)), quote(urllib.parse.unquote_plus(value))) for name, value in pairs]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def signature(secret, method, target, headers, signed, payload, date, service="s3", region=REGION):
    """Returns the signature of a request; `headers` are by lower-case names."""
    path, _, query = target.partition("?")
    lines = "".join(f"{name}:{headers.get(name, '').strip()}\n" for name in signed)
    path = quote(urllib.parse.unquote(path), "/-_.~")
    text = "\n".join([method, path, canonical_query(query), lines, ";".join(signed), payload])
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(text.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def now(seconds=0):
    time = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return time.strftime("%Y%m%dT%H%M%SZ")


def signed_headers(key, host, method, target, body=b"", headers=None, *, signed=None, payload=None,
                   date=None, service="s3", region=REGION):
    """Returns the headers of a request that is signed in its headers; `signed` are the names to sign."""
    key_id, secret = key
    date = date or now()
    payload = payload or hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-date": date, "x-amz-content-sha256": payload, **(headers or {})}
    signed = sorted(headers) if signed is None else signed
    value = signature(secret, method, target, headers, signed, payload, date, service, region)
    scope = f"{key_id}/{date[:8]}/{region}/{service}/aws4_request"
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(signed)}, Signature={value}"
    )
    return headers


def presigned(key, host, method, target, *, headers=None, date=None, expires="300", service="s3",
              payload="UNSIGNED-PAYLOAD", **changed):
    """Returns the target of a presigned URL; `changed` replaces parameters before they are signed, and
    one that is None is left out."""
    key_id, secret = key
    date = date or now()
    headers = {"host": host, **(headers or {})}
    names = changed.pop("signed", sorted(headers))
    parameters = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{key_id}/{date[:8]}/{REGION}/{service}/aws4_request",
        "X-Amz-Date": date,
        "X-Amz-Expires": expires,
        "X-Amz-SignedHeaders": ";".join(names),
    }
    parameters.update({f"X-Amz-{name}": value for name, value in changed.items()})
    query = "&".join(f"{name}={quote(value)}" for name, value in parameters.items() if value is not None)
    target = f"{target}{'&' if '?' in target else '?'}{query}"
    value = signature(secret, method, target, headers, names, payload, date, service)
    return f"{target}&X-Amz-Signature={value}"
