# SPDX-License-Identifier: Apache-2.0
"""The expensive work of a build, one file per step, run by `packager.actions.runner` in a sandboxed worker.

A step is a module with `VERSION`, raised by hand when the same inputs may give other bytes, and
`run(inputs, out, params)`: it reads the trees in `inputs`, writes files into the empty directory `out`, and returns
small JSON facts. It raises StepError for what a user can act on.
"""
