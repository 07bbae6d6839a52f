# SPDX-License-Identifier: Apache-2.0
"""OCI registries: read bundles from them and write bundles to them, streaming and resumable.

    reference     `oci://host[:port]/name[:tag][@digest]`
    credentials   Docker's and Podman's files and helpers
    login         authentication: basic, or a bearer token for a scope
    wire          HTTP: TLS, retries with backoff, redirects; one object per registry
    repository    the distribution protocol: manifests, blobs, referrers
    upload        one blob, resumed after a broken connection
    medium        a bundle in a registry, as a medium
    publish       a registry as a destination

Source: OCI distribution-spec v1.1. Nothing here reads the environment, the clock, or a file that is not passed in, and
nothing here is imported unless a reference starts with `oci://`.
"""
