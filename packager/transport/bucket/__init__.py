# SPDX-License-Identifier: Apache-2.0
"""Bundles in object stores and on other remote file systems: S3, and the others that `fsspec` has a driver for.

    reference   `scheme://bucket/name[:version][@digest]`
    folder      the folder of one bundle, through a driver; every failure becomes one of our errors there
    medium      a bundle in a bucket, as a medium and as a destination

`s3://models/team/digits:1.4.0` is an OCI image layout below `s3://models/team/digits/1.4.0/`, so that a copied folder
is a bundle for `packager`, `skopeo` and `oras`, and deleting a folder deletes exactly one version (docs/adr/020).
`index.json` is written last and is the only object that ever changes: before it a bundle is absent, after it complete.
Blobs are immutable, sent only if there is no object of that name and size, and hashed while sent.

Credentials, addresses and certificates come from the driver's environment and files (for S3: AWS_PROFILE,
AWS_ENDPOINT_URL, AWS_CA_BUNDLE …); none of them is in a message. Nothing here is imported unless a reference names such
an address.
"""
