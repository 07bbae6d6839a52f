# SPDX-License-Identifier: Apache-2.0
"""The gRPC side of the server."""
