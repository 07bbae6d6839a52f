# SPDX-License-Identifier: Apache-2.0
"""Perform actions on the nodes of a Ray cluster: the other implementation of `actions.runner.Executor`.

release process ── executor ──> inputs to the shared store, a request ── gateway ──> node ──> outputs, an answer

Requests and answers are JSON; files travel through a registry or a bucket by their digests. Only the gateway, a process
without secrets and without a store, imports Ray: what Ray unpickles, it unpickles there and on nodes.
"""
