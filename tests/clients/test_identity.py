"""Wallet identities: on the wire, misused, and what others may do."""

import hashlib
import json
import time

import boto3
import botocore.config
import botocore.exceptions
import jwt
import pytest

from helpers import Refused, pattern
from identity import JWT_SECRET, Wallet, call, code, door, fresh, session_client, sts, token_client, token_of


def test_a_wallet_token_works_on_every_s3_route(door):
    wallet, bucket = Wallet(), fresh()
    for token in (wallet.v1(), wallet.v2()):
        ask = lambda *args, **more: call(door, *args, token=token, **more)
        assert ask("PUT", f"/{bucket}")[0] == 200
        assert ask("PUT", f"/{bucket}/k", b"body", headers={"If-None-Match": "*"})[0] == 200
        assert code(ask("PUT", f"/{bucket}/k", b"x", headers={"If-None-Match": "*"})) == (412, "PreconditionFailed")
        assert ask("GET", f"/{bucket}/k")[2] == b"body"
        assert ask("HEAD", f"/{bucket}/k")[0] == 200
        assert b"<Key>k</Key>" in ask("GET", f"/{bucket}?list-type=2")[2]
        assert bucket.encode() in ask("GET", "/")[2]
        commit = json.dumps({"changes": [{"put": {"key": "c", "text": "x"}}]}).encode()
        assert ask("POST", f"/{bucket}?fula-commit", commit)[0] == 200
        assert ask("DELETE", f"/{bucket}/c")[0] == 204
        assert ask("DELETE", f"/{bucket}/k")[0] == 204
        assert ask("DELETE", f"/{bucket}")[0] == 204
    status, _, body = call(door, "GET", "/fula/whoami", token=wallet.v2("read:abc/p"))
    me = json.loads(body)
    assert (status, me["user"], me["scopes"]) == (200, wallet.user, ["read:abc/p"])
    capabilities = json.loads(call(door, "GET", "/fula/capabilities")[2])
    assert capabilities["eip712Auth"] and capabilities["audiences"] == ["here", "federation.example"]


def test_the_owner_is_the_one_that_other_implementations_derive(door):
    known = Wallet("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
    me = json.loads(call(door, "GET", "/fula/whoami", token=known.v1())[2])
    assert me["owner"] == "f41f214011f79ff767b399d24e0e75af"


def test_a_streamed_body_under_a_bearer_is_stored_without_its_framing(door):
    token, bucket = Wallet().v1(), fresh()
    s3 = boto3.client("s3", endpoint_url=door.url, region_name="us-east-1",
                      config=botocore.config.Config(signature_version=botocore.UNSIGNED,
                                                    s3={"addressing_style": "path"}))
    bearer = lambda request, **_: request.headers.update({"Authorization": f"Bearer {token}"})
    s3.meta.events.register("before-send.s3", bearer)
    s3.create_bucket(Bucket=bucket)
    body = pattern(300_000)
    s3.put_object(Bucket=bucket, Key="k", Body=body, ChecksumAlgorithm="CRC32")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
    # Frames that nobody would take apart are refused, not stored.
    framed = b"3;chunk-signature=%s\r\nabc\r\n0;chunk-signature=%s\r\n\r\n" % (b"0" * 64, b"0" * 64)
    for headers in ({"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"},
                    {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
                    {"Content-Encoding": "aws-chunked"}):
        headers["x-amz-decoded-content-length"] = "3"
        assert code(call(door, "PUT", f"/{bucket}/k", framed, token, headers)) == (400, "InvalidRequest")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
    # What the body is said to hash to is held to, though nothing is signed.
    right = hashlib.sha256(body).hexdigest()
    put = lambda sha256, body=body: code(call(door, "PUT", f"/{bucket}/k", body, token, {"x-amz-content-sha256": sha256}))
    for announced in ("0" * 64, hashlib.sha256(b"").hexdigest()):
        assert put(announced) == (400, "XAmzContentSHA256Mismatch")
        assert put(announced, b"short") == (400, "XAmzContentSHA256Mismatch")
    assert (put(right), put("UNSIGNED-PAYLOAD")) == (200, 200)
    assert put(hashlib.sha256(b"").hexdigest(), b"") == 200


def test_forms_are_refused_before_their_file_is_read(door):
    body = b"--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n" + b"A" * 300
    headers = {"Content-Type": "Multipart/Form-Data; boundary=x"}
    assert code(call(door, "POST", f"/{fresh()}", body, headers=headers)) == (403, "AccessDenied")
    # Beside a query, a form is none.
    status, _, answer = call(door, "POST", f"/{fresh()}?delete", body, headers=headers)
    assert status == 501 and b"A form with a query" in answer


# What each is told, on S3 routes and on others. Of a good token each changes one thing.
def misuses():
    now = int(time.time())
    wallet, other = Wallet(), Wallet()
    good = wallet.v1()
    prefix, payload, signature = good.split(".")
    forged = token_of({"wallet": other.account.address, "iat": now, "exp": now + 60}, b"\1" * 64 + b"\x1b")
    hs256 = lambda claims, secret=JWT_SECRET, **more: jwt.encode(claims, secret, algorithm="HS256", **more)
    claims = {"sub": "alice", "exp": now + 60, "scope": "storage:*"}
    unsigned = jwt.encode(claims, None, algorithm="none")
    return {
        "expired": (wallet.v1(iat=now - 100, life=50), (400, "ExpiredToken")),
        "too long a life": (wallet.v1(life=86_401), (400, "InvalidToken")),
        "from the future": (wallet.v1(iat=now + 1000), (400, "InvalidToken")),
        "tampered": (f"{prefix}.{payload[:-4]}AAAA.{signature}", (400, "InvalidToken")),
        "wrong wallet": (f"{forged.rsplit('.', 1)[0]}.{signature}", (400, "InvalidToken")),
        "no signature": (forged, (400, "InvalidToken")),
        "another audience": (wallet.v2(audience="elsewhere"), (403, "AccessDenied")),
        "no token": ("nonsense", (400, "InvalidToken")),
        "empty": ("", (400, "InvalidToken")),
        "huge": (good + "A" * 20_000, (400, "InvalidToken")),
        "unicode": (good.replace("fula", "füla"), (400, "InvalidToken")),
        "jwt none": (unsigned, (400, "InvalidToken")),
        "jwt other secret": (hs256(claims, "another secret of enough bytes!!!"), (400, "InvalidToken")),
        "jwt expired": (hs256({**claims, "exp": now - 1}), (400, "ExpiredToken")),
        "jwt without exp": (hs256({"sub": "alice", "scope": "storage:*"}), (400, "InvalidToken")),
        "jwt of a wallet": (hs256({**claims, "sub": wallet.user}), (400, "InvalidToken")),
        "jwt of a key": (hs256({**claims, "sub": "key:admin"}), (400, "InvalidToken")),
    }


@pytest.mark.parametrize("name", misuses())
def test_a_misused_token_is_refused_everywhere(door, name):
    token, expected = misuses()[name]
    assert code(call(door, "GET", "/", token=token)) == expected
    assert code(call(door, "PUT", f"/{fresh()}", token=token)) == expected
    assert code(call(door, "POST", f"/{fresh()}?fula-commit", b"{}", token=token)) == expected
    status, headers, _ = call(door, "GET", "/fula/whoami", token=token)
    assert (status, headers["www-authenticate"].split()[0]) == (401, "Bearer")
    # As access key, and exchanged for one, it is no better.
    if token and token.isascii() and len(token) < 10_000:
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            token_client(door, token).list_buckets()
        found = refused.value.response
        if "." in token:
            assert (found["ResponseMetadata"]["HTTPStatusCode"], found["Error"]["Code"]) == expected
        else:
            assert found["Error"]["Code"] == "InvalidAccessKeyId"
    if token.isascii() and 4 <= len(token) <= 20_000:
        said = {"ExpiredToken": "ExpiredTokenException", "InvalidToken": "InvalidIdentityToken"}
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            sts(door, token)
        assert refused.value.response["Error"]["Code"] == said.get(expected[1], expected[1])


def test_credentials_do_not_mix(door):
    wallet = Wallet()
    token, bucket = wallet.v1(), fresh()
    call(door, "PUT", f"/{bucket}", token=token)
    url = door.client().generate_presigned_url("list_buckets")
    path = url[len(door.url):]
    assert code(call(door, "GET", path, token=token)) == (400, "InvalidArgument")
    # A signature with a key id that is known, and no secret.
    with Refused("SignatureDoesNotMatch", 403):
        door.client(key=(door.credentials()[0], "guessed" * 6)).list_buckets()
    with Refused("SignatureDoesNotMatch", 403):
        door.client(key=(token, "guessed" * 6)).list_buckets()
    # A session needs its session token, and an operator's key must have none.
    credentials = sts(door, token)["Credentials"]
    for wrong in (None, "A" * 43):
        with Refused("InvalidToken", 400):
            session_client(door, {**credentials, "SessionToken": wrong}).list_buckets()
    id, secret = door.credentials()
    with Refused("InvalidToken", 400):
        session_client(door, {"AccessKeyId": id, "SecretAccessKey": secret, "SessionToken": "x"}).list_buckets()
    # A schema of its own in the header, and headers that are split.
    assert code(call(door, "GET", "/", headers={"Authorization": "Basic YTpi"}))[0] == 400
    with pytest.raises(ValueError):
        call(door, "GET", "/", headers={"Authorization": f"Bearer {token}\r\nx-amz-acl: public-read"})


def test_scopes_bound_what_a_token_may_do(door):
    wallet, bucket = Wallet(), fresh()
    owner = token_client(door, wallet.v1())
    owner.create_bucket(Bucket=bucket)
    for key in ("in/k", "out/k"):
        owner.put_object(Bucket=bucket, Key=key, Body=b"x")
    reader = token_client(door, wallet.v2(f"read:{bucket}/in/"))
    assert reader.get_object(Bucket=bucket, Key="in/k")["Body"].read() == b"x"
    assert [o["Key"] for o in reader.list_objects_v2(Bucket=bucket, Prefix="in/")["Contents"]] == ["in/k"]
    assert [b["Name"] for b in reader.list_buckets()["Buckets"]] == [bucket]
    for refused in (
        lambda: reader.get_object(Bucket=bucket, Key="out/k"),
        lambda: reader.list_objects_v2(Bucket=bucket),
        lambda: reader.put_object(Bucket=bucket, Key="in/k", Body=b"y"),
        lambda: reader.create_bucket(Bucket=fresh()),
        lambda: reader.get_object(Bucket=fresh(), Key="k"),
    ):
        with Refused("AccessDenied", 403):
            refused()
    writer = token_client(door, wallet.v2(f"write:{bucket}"))
    writer.put_object(Bucket=bucket, Key="new", Body=b"x", IfNoneMatch="*")
    with Refused("AccessDenied", 403):
        writer.get_object(Bucket=bucket, Key="new")
    # An entity tag must not be found out by trying.
    with Refused("AccessDenied", 403):
        writer.put_object(Bucket=bucket, Key="new", Body=b"y", IfMatch='"00"')
    with Refused("AccessDenied", 403):
        writer.put_object(Bucket=bucket, Key="new", Body=b"y", IfNoneMatch='"00"')
    answer = token_client(door, wallet.v2(f"write:{bucket}/in/")).delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": "in/k"}, {"Key": "out/k"}]})
    assert [d["Key"] for d in answer["Deleted"]] == ["in/k"]
    assert [(e["Key"], e["Code"]) for e in answer["Errors"]] == [("out/k", "AccessDenied")]
    commit = lambda *keys: json.dumps({"changes": [{"put": {"key": k, "text": "x"}} for k in keys]}).encode()
    half = wallet.v2(f"write:{bucket}/in/")
    assert code(call(door, "POST", f"/{bucket}?fula-commit", commit("in/a", "out/a"), half)) == (403, "AccessDenied")
    assert call(door, "POST", f"/{bucket}?fula-commit", commit("in/a", "in/b"), half)[0] == 200
    # Scopes are about the token's own owner.
    with Refused("NoSuchBucket", 404):
        token_client(door, Wallet().v2(f"read:{bucket}")).get_object(Bucket=bucket, Key="new")


def test_a_token_presigns_only_for_the_one_object_it_is_about(door):
    wallet, bucket = Wallet(), fresh()
    owner = token_client(door, wallet.v1())
    owner.create_bucket(Bucket=bucket)
    owner.put_object(Bucket=bucket, Key="k", Body=b"shared")
    get = lambda token: token_client(door, token).generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": "k"})[len(door.url):]
    assert call(door, "GET", get(wallet.v2(f"read:{bucket}=k")))[2] == b"shared"
    for token in (wallet.v1(), wallet.v2(f"read:{bucket}/k"), wallet.v2(f"read:{bucket}=k", f"read:{bucket}=l")):
        assert code(call(door, "GET", get(token))) == (403, "AccessDenied")
    # A session presigns as on AWS.
    s3 = session_client(door, sts(door, wallet.v1())["Credentials"])
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert call(door, "GET", url[len(door.url):])[2] == b"shared"


def test_public_reads(door):
    wallet, bucket = Wallet(), fresh()
    owner, stranger = token_client(door, wallet.v1()), token_client(door, Wallet().v1())
    anonymous = lambda path: call(door, "GET", path)
    # A signed request reaches a bucket of another owner by saying whose it is.
    theirs = {"Bucket": bucket, "ExpectedBucketOwner": owner.list_buckets()["Owner"]["ID"]}
    owner.create_bucket(Bucket=bucket)
    for key in ("pub/k", "priv/k"):
        owner.put_object(Bucket=bucket, Key=key, Body=b"x")
    with Refused("NoSuchBucketPolicy", 404):
        owner.get_bucket_policy(Bucket=bucket)
    assert code(anonymous(f"/{bucket}/pub/k")) == (403, "AccessDenied")
    with Refused("AccessDenied", 403):
        stranger.get_object(**theirs, Key="pub/k")
    allow = lambda action, *resources: {"Effect": "Allow", "Principal": "*", "Action": action,
                                        "Resource": [f"arn:aws:s3:::{r}" for r in resources]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:GetObject", f"{bucket}/pub/*")]})
    owner.put_bucket_policy(Bucket=bucket, Policy=policy)
    assert owner.get_bucket_policy(Bucket=bucket)["Policy"] == policy
    assert owner.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"]
    assert anonymous(f"/{bucket}/pub/k")[2] == b"x"
    assert stranger.get_object(**theirs, Key="pub/k")["Body"].read() == b"x"
    with Refused("NoSuchBucket", 404):
        stranger.get_object(Bucket=bucket, Key="pub/k")
    assert code(anonymous(f"/{bucket}/priv/k")) == (403, "AccessDenied")
    assert code(anonymous(f"/{bucket}?list-type=2")) == (403, "AccessDenied")
    for refused in (
        lambda: stranger.put_object(**theirs, Key="pub/k", Body=b"y"),
        lambda: stranger.get_bucket_policy(**theirs),
        lambda: stranger.put_bucket_policy(**theirs, Policy=policy),
        lambda: stranger.get_object(**theirs, Key="priv/k"),
    ):
        with Refused("AccessDenied", 403):
            refused()
    # What is public can be copied into a bucket of one's own, and nothing else.
    mine = fresh()
    stranger.create_bucket(Bucket=mine)
    source = {"ExpectedSourceBucketOwner": theirs["ExpectedBucketOwner"]}
    stranger.copy_object(Bucket=mine, Key="k", CopySource={"Bucket": bucket, "Key": "pub/k"}, **source)
    with Refused("AccessDenied", 403):
        stranger.copy_object(Bucket=mine, Key="k", CopySource={"Bucket": bucket, "Key": "priv/k"}, **source)
    listed = json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:ListBucket", bucket)]})
    owner.put_bucket_policy(Bucket=bucket, Policy=listed)
    assert b"priv/k" in anonymous(f"/{bucket}?list-type=2")[2]
    assert code(anonymous(f"/{bucket}/pub/k")) == (403, "AccessDenied")
    owner.delete_bucket_policy(Bucket=bucket)
    assert code(anonymous(f"/{bucket}?list-type=2")) == (403, "AccessDenied")
    deny = json.dumps({"Version": "2012-10-17", "Statement": [{**allow("s3:GetObject", f"{bucket}/*"), "Effect": "Deny"}]})
    owner.put_bucket_policy(Bucket=bucket, Policy=deny)
    with Refused("AccessDenied", 403):
        owner.get_object(Bucket=bucket, Key="pub/k")
    with Refused("MalformedPolicy", 400):
        owner.put_bucket_policy(Bucket=bucket, Policy="{}")


def test_a_bucket_of_another_owner_is_named_by_its_owner(door):
    """Two owners have a bucket of one name; the second is reached by saying whose is meant."""
    name = fresh()
    wallets = [Wallet(), Wallet()]
    clients = [token_client(door, wallet.v1()) for wallet in wallets]
    owners = [json.loads(call(door, "GET", "/fula/whoami", token=w.v1())[2])["owner"] for w in wallets]
    policy = json.dumps({"Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{name}/*"}})
    for n, s3 in enumerate(clients):
        s3.create_bucket(Bucket=name)
        s3.put_object(Bucket=name, Key="k", Body=b"%d" % n)
        s3.put_bucket_policy(Bucket=name, Policy=policy)
    get = lambda s3, **more: s3.get_object(Bucket=name, Key="k", **more)["Body"].read()
    assert get(clients[0]) == b"0" and get(clients[1]) == b"1"
    assert get(clients[0], ExpectedBucketOwner=owners[1]) == b"1"
    assert call(door, "GET", f"/{name}/k")[2] == b"0", "the first to make a name public holds it for all"
    assert call(door, "GET", f"/{name}/k", headers={"x-amz-expected-bucket-owner": owners[1]})[2] == b"1"
    clients[0].copy_object(Bucket=name, Key="copy", CopySource={"Bucket": name, "Key": "k"},
                           ExpectedSourceBucketOwner=owners[1])
    assert clients[0].get_object(Bucket=name, Key="copy")["Body"].read() == b"1"
    for owner in ("0" * 32, "123456789012"):
        with Refused("AccessDenied", 403):
            get(clients[0], ExpectedBucketOwner=owner)
        with Refused("AccessDenied", 403):
            clients[0].get_object(Bucket=fresh(), Key="k", ExpectedBucketOwner=owner)


# Every S3 operation, and what each of four is told: a is let do it, d denied, n no such bucket.
OPERATIONS = {
    "head_bucket": ({}, "adnd"),
    "get_bucket_location": ({}, "adnd"),
    "list_objects": ({}, "adnd"),
    "list_objects_v2": ({}, "adnd"),
    "list_multipart_uploads": ({}, "adnd"),
    "get_bucket_policy": ({}, "adnd"),
    "get_bucket_policy_status": ({}, "adnd"),
    "put_bucket_policy": ({"Policy": "{policy}"}, "adnd"),
    "delete_bucket_policy": ({}, "adnd"),
    "get_object": ({"Key": "k"}, "adnd"),
    "head_object": ({"Key": "k"}, "adnd"),
    "put_object": ({"Key": "k", "Body": b"x"}, "adnd"),
    "copy_object": ({"Key": "copy", "CopySource": "{bucket}/k"}, "adnd"),
    "delete_object": ({"Key": "gone"}, "adnd"),
    "delete_objects": ({"Delete": {"Objects": [{"Key": "gone"}]}}, "adnd"),
    "create_multipart_upload": ({"Key": "k"}, "adnd"),
    "upload_part": ({"Key": "k", "UploadId": "{upload}", "PartNumber": 1, "Body": b"x"}, "adnd"),
    "upload_part_copy": ({"Key": "k", "UploadId": "{upload}", "PartNumber": 2, "CopySource": "{bucket}/k"}, "adnd"),
    "list_parts": ({"Key": "k", "UploadId": "{upload}"}, "adnd"),
    "complete_multipart_upload": ({"Key": "k", "UploadId": "{upload}", "MultipartUpload": {
        "Parts": [{"PartNumber": 1, "ETag": "9dd4e461268c8034f5c8564e155c67a6"}]}}, "adnd"),
    "abort_multipart_upload": ({"Key": "k", "UploadId": "{aborted}"}, "adnd"),
    "fula_commit": ({"changes": [{"put": {"key": "c", "text": "x"}}]}, "adnd"),
    "fula_copy": ({"changes": [{"copy": {"key": "d", "from": {"key": "k"}}}]}, "adnd"),
    "fula_check": ({"each": True, "changes": [{"check": {"key": "k", "ifMatch": "*"}}]}, "adnd"),
    "fula_list": ({"query": "fula-list&meta=m"}, "adnd"),
    "fula_changes": ({"query": "fula-changes&since=1&wait=60"}, "adnd"),
    "delete_bucket": ({}, "adnd"),
    # About no bucket of others: whoever is somebody lists their own, and creates their own, as far as
    # their token reaches.
    "list_buckets": ({}, "aaad"),
    "create_bucket": ({}, "adad"),
}


def test_every_operation_for_everyone(door):
    """Owner, a token of theirs for elsewhere, another tenant, the anonymous; and the revoked."""
    wallet, bucket = Wallet(), fresh()
    owner = token_client(door, wallet.v1())
    owner.create_bucket(Bucket=bucket)
    owner.put_object(Bucket=bucket, Key="k", Body=b"x")
    begin = lambda: owner.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/none"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    words = {"bucket": bucket, "upload": begin(), "aborted": begin(), "policy": policy}
    unsigned = boto3.client("s3", endpoint_url=door.url, region_name="us-east-1",
                            config=botocore.config.Config(signature_version=botocore.UNSIGNED,
                                                          s3={"addressing_style": "path"},
                                                          retries={"max_attempts": 1}))
    revoked = Wallet()
    tokens = {"owner": wallet.v1(), "elsewhere": wallet.v2(f"admin:{fresh()}"), "stranger": Wallet().v1(),
              "anonymous": None, "revoked": revoked.v1()}
    clients = {name: token_client(door, token) if token else unsigned for name, token in tokens.items()}
    door.fula("revoke", "wallet", revoked.user.upper().replace("0X", "0x"))
    mistyped = door.fula("revoke", "wallet", revoked.user[:-1], check=False)
    assert mistyped.returncode == 2 and "40 hex digits" in mistyped.stderr

    def fill(value):
        if isinstance(value, str) and value.startswith("{"):
            name, rest = value[1:].split("}", 1)
            return words[name] + rest
        return value

    def told(name, operation, arguments):
        """The error code that one of them gets, if any."""
        if "query" in arguments:
            answer = code(call(door, "GET", f"/{bucket}?{arguments['query']}", token=tokens[name]))
            return None if answer == 200 else answer[1]
        if operation.startswith("fula_"):
            body = json.dumps(arguments).encode()
            answer = code(call(door, "POST", f"/{bucket}?fula-commit", body, tokens[name]))
            return None if answer == 200 else answer[1]
        if operation != "list_buckets":
            arguments = {"Bucket": bucket, **arguments}
        try:
            getattr(clients[name], operation)(**arguments)
        except botocore.exceptions.ClientError as error:
            return error.response["Error"]["Code"]

    letters = {None: "a", "AccessDenied": "d", "403": "d", "NoSuchBucket": "n", "404": "n",
               # Let do it, though there is nothing to do it to.
               "NoSuchBucketPolicy": "a", "NoSuchUpload": "a", "BucketNotEmpty": "a",
               "BucketAlreadyOwnedByYou": "a"}
    for operation, (arguments, expected) in OPERATIONS.items():
        arguments = {name: fill(value) for name, value in arguments.items()}
        # The owner last: what they do changes what there is.
        found = {name: told(name, operation, arguments) for name in ("elsewhere", "stranger", "anonymous", "owner")}
        order = ("owner", "elsewhere", "stranger", "anonymous")
        assert "".join(letters.get(found[name], "?") for name in order) == expected, (operation, found)
        assert told("revoked", operation, arguments) in ("AccessDenied", "403"), operation
