"""Lets people without a key download one object and upload one: with a link, and with a form for a browser.

The program signs both with its own key, and the gateway is not asked. A link and a form end at their time, or
earlier with the key that signed them.

Usage: python3 examples/links.py BUCKET

Address and key come from the environment, as for every AWS SDK: AWS_ENDPOINT_URL, AWS_REGION,
AWS_SHARED_CREDENTIALS_FILE.
"""

import sys
import urllib.error
import urllib.request

import boto3
import botocore.config

MINUTES = 60


def download_link(s3, bucket, key, name):
    """Returns a URL that downloads an object for ten minutes, under a name of its own."""
    params = {"Bucket": bucket, "Key": key, "ResponseContentDisposition": f'attachment; filename="{name}"'}
    return s3.generate_presigned_url("get_object", Params=params, ExpiresIn=10 * MINUTES)


def upload_form(s3, bucket, prefix):
    """Returns URL and fields of a form that takes one image of up to 1 MiB below a prefix."""
    conditions = [["starts-with", "$key", prefix], ["starts-with", "$Content-Type", "image/"],
                  ["content-length-range", 1, 1 << 20]]
    return s3.generate_presigned_post(bucket, prefix + "${filename}", Conditions=conditions,
                                      ExpiresIn=10 * MINUTES)


def send(form, name, content, media_type):
    """Sends a form as a browser does; returns the status."""
    boundary = "a-text-that-is-in-no-field"
    fields = {**form["fields"], "Content-Type": media_type}
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
             for field, value in fields.items()]
    parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n')
    body = "".join(parts).encode() + content + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    request = urllib.request.Request(form["url"], data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def main(bucket):
    s3 = boto3.client("s3", config=botocore.config.Config(signature_version="s3v4"))
    s3.put_object(Bucket=bucket, Key="report", Body=b"all is well")
    with urllib.request.urlopen(download_link(s3, bucket, "report", "report.txt"), timeout=30) as answer:
        print("downloaded:", answer.read().decode(), "as", answer.headers["content-disposition"])
    form = upload_form(s3, bucket, "inbox/")
    print("an image:", send(form, "cat.png", b"\x89PNG...", "image/png"))
    print("a program:", send(form, "cat.exe", b"MZ...", "application/x-msdownload"))
    print("too large:", send(form, "huge.png", b"x" * (2 << 20), "image/png"))
    print("in the inbox:", [found["Key"] for found in s3.list_objects_v2(Bucket=bucket, Prefix="inbox/")["Contents"]])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
