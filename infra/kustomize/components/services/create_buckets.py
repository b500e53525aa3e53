"""Make the buckets named as arguments, leave those that exist. Endpoint and credentials: boto3's own variables."""

import sys

import boto3

store = boto3.client("s3")
existing = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
for name in sys.argv[1:]:
    if name not in existing:
        store.create_bucket(Bucket=name)
    print(f"s3://{name}: {'was there' if name in existing else 'made'}")
