"""Object stores: run folders, data sets and weights in buckets (`gs://`, `s3://`).

The protocols are those of gcsfs and s3fs, reached through fsspec; the extra `stores` installs both.
"""
