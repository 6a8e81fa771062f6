"""Tags of objects and buckets, in every form."""

from helpers import MIB, Refused
from test_answers import signed
from test_settings import code
from test_signatures import exchange, told
from signing import presigned, quote


def tags(pairs):
    return [{"Key": key, "Value": value} for key, value in sorted(pairs.items())]


def tags_of(s3, bucket, key):
    return {tag["Key"]: tag["Value"] for tag in s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]}


def test_tags_of_an_object(gateway, s3, bucket):
    what = {"Bucket": bucket, "Key": "k"}
    s3.put_object(**what, Body=b"kept", Tagging="a=1&b=x%20y")
    assert tags_of(s3, bucket, "k") == {"a": "1", "b": "x y"}
    before = s3.head_object(**what)
    assert s3.get_object(**what)["TagCount"] == 2
    assert before["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "2"
    put = s3.put_object_tagging(**what, Tagging={"TagSet": tags({"grün": "é/=+-@._:", "empty": ""})})
    assert put["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert tags_of(s3, bucket, "k") == {"grün": "é/=+-@._:", "empty": ""}
    assert s3.delete_object_tagging(**what)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert tags_of(s3, bucket, "k") == {}
    after = s3.get_object(**what)
    assert (after["LastModified"], after["ETag"], "TagCount" in after) == (before["LastModified"], before["ETag"], False)
    assert after["Body"].read() == b"kept"
    # A new object has its own tags.
    s3.put_object_tagging(**what, Tagging={"TagSet": tags({"a": "1"})})
    s3.put_object(**what, Body=b"new")
    assert tags_of(s3, bucket, "k") == {}
    for call in [s3.get_object_tagging, s3.delete_object_tagging]:
        with Refused("NoSuchKey", 404):
            call(Bucket=bucket, Key="absent")
    with Refused("NoSuchKey", 404):
        s3.put_object_tagging(Bucket=bucket, Key="absent", Tagging={"TagSet": []})


def test_limits_of_tags(gateway, s3, bucket):
    what = {"Bucket": bucket, "Key": "k"}
    s3.put_object(**what, Body=b"x")
    most = {f"{n}{'k' * 127}": "v" * 256 for n in range(10)}
    s3.put_object_tagging(**what, Tagging={"TagSet": tags(most)})
    assert tags_of(s3, bucket, "k") == most and s3.get_object(**what)["TagCount"] == 10
    put = lambda pairs: code(s3.put_object_tagging, **what, Tagging={"TagSet": pairs})
    assert put(tags({**most, "more": ""})) == (400, "BadRequest", "Object tags cannot be greater than 10")
    for pairs, text in [
        (tags({"k" * 129: ""}), "The TagKey you have provided is invalid"),
        (tags({"k": "v" * 257}), "The TagValue you have provided is invalid"),
        (tags({"k": "a;b"}), "The TagValue you have provided is invalid"),
        (tags({"aws:k": "v"}), "System tags cannot be added/updated by requester"),
        (tags({"k": "v"}) * 2, "Cannot provide multiple Tags with the same key"),
    ]:
        assert put(pairs) == (400, "InvalidTag", text), pairs
    for header, expected in [("a=1&a=2", "InvalidArgument"), ("a=%3B", "InvalidTag"),
                             ("&".join(f"k{n}" for n in range(11)), "BadRequest")]:
        assert told(signed(gateway, "PUT", f"/{bucket}/k", b"y", {"x-amz-tagging": header}))[:2] == (400, expected)
    assert told(signed(gateway, "PUT", f"/{bucket}/k?tagging", b"<Tagging>"))[:2] == (400, "MalformedXML")
    assert tags_of(s3, bucket, "k") == most and s3.get_object(**what)["Body"].read() == b"x"
    # A part of an upload has no tags.
    assert signed(gateway, "PUT", f"/{bucket}/k?partNumber=1&uploadId=u", b"x", {"x-amz-tagging": "a=1"})[0] == 501


def test_tags_of_copies_and_uploads(s3, bucket):
    source = {"Bucket": bucket, "Key": "k"}
    s3.put_object(**source, Body=b"x", Tagging="a=1", Metadata={"m": "1"})
    copy = lambda key="copy", **more: s3.copy_object(Bucket=bucket, Key=key, CopySource=source, **more)
    copy()
    assert tags_of(s3, bucket, "copy") == {"a": "1"}
    copy(TaggingDirective="COPY", MetadataDirective="REPLACE")
    assert tags_of(s3, bucket, "copy") == {"a": "1"} and s3.head_object(Bucket=bucket, Key="copy")["Metadata"] == {}
    copy(TaggingDirective="REPLACE", Tagging="b=2")
    assert tags_of(s3, bucket, "copy") == {"b": "2"} and s3.head_object(Bucket=bucket, Key="copy")["Metadata"] == {"m": "1"}
    copy(TaggingDirective="REPLACE")
    assert tags_of(s3, bucket, "copy") == {}
    other = f"{bucket}-2"
    s3.create_bucket(Bucket=other)
    s3.copy_object(Bucket=other, Key="k", CopySource=source, TaggingDirective="REPLACE", Tagging="c=3")
    assert tags_of(s3, other, "k") == {"c": "3"}
    s3.copy_object(Bucket=other, Key="k", CopySource=source)
    assert tags_of(s3, other, "k") == {"a": "1"}
    what = {"Bucket": bucket, "Key": "parts"}
    upload = {**what, "UploadId": s3.create_multipart_upload(**what, Tagging="u=1")["UploadId"]}
    part = s3.upload_part(**upload, PartNumber=1, Body=b"p")
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert tags_of(s3, bucket, "parts") == {"u": "1"}


def test_tags_of_a_bucket(s3, bucket):
    put = lambda pairs: s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags(pairs)})
    assert put({"team": "a b", "é": ""})["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags({"team": "a b", "é": ""})
    most = {f"{n:02}": "v" * 256 for n in range(50)}
    put(most)
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags(most)
    with Refused("BadRequest", 400):
        put({**most, "more": ""})
    with Refused("InvalidTag", 400):
        put({"aws:x": ""})
    assert s3.delete_bucket_tagging(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    with Refused("NoSuchTagSet", 404):
        s3.get_bucket_tagging(Bucket=bucket)
    new = f"{bucket}-new"
    s3.create_bucket(Bucket=new, CreateBucketConfiguration={"Tags": tags({"at": "birth"})})
    assert s3.get_bucket_tagging(Bucket=new)["TagSet"] == tags({"at": "birth"})
    # A policy beside them takes nothing away.
    s3.delete_bucket_policy(Bucket=new)
    assert s3.get_bucket_tagging(Bucket=new)["TagSet"] == tags({"at": "birth"})


def test_a_presigned_url_may_carry_tags(gateway, s3, bucket):
    url = presigned(gateway.credentials(), gateway.listen, "PUT", f"/{bucket}/k?x-amz-tagging={quote('a=1&b=2')}")
    assert exchange(gateway, "PUT", url, {}, b"x")[0] == 200
    assert tags_of(s3, bucket, "k") == {"a": "1", "b": "2"}


def test_tags_survive_a_restart(own_gateway):
    s3, bucket = own_gateway.client(), "tagged-bucket"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    large = {f"{n}{'k' * 127}": "v" * 256 for n in range(10)}
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": tags(large)})
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags({"a": "1"})})
    own_gateway.kill()
    own_gateway.start()
    assert tags_of(s3, bucket, "k") == large
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags({"a": "1"})
