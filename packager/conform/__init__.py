# SPDX-License-Identifier: Apache-2.0
"""The driver of conformance/suite: test a bundle on real runtimes, each cell in a separate environment and process.

    bundle ── verified, unpacked ──> files
    newest promised ONNX Runtime, in its own environment ──> reference vectors
    per cell, `jobs` at a time:  environment ──> pytest over conformance/suite ──> one verdict
    verdicts ──> one result (plain JSON), from which matrix, JUnit, HTML and attestation follow

The suite runs as a separate program and gets files; nothing of it is imported here. Everything has a time limit and a
memory limit; what a cell leaves on disk is in its folder of the working directory.
"""
