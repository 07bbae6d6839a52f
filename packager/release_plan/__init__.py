# SPDX-License-Identifier: Apache-2.0
"""Release many models as one plan: read the release file, plan, run tasks in worker processes, remember, report.

release.yaml ── release_file ──> models with their settings
driver ── one worker process per job ──> tasks of one model, in order ── journal ──> what needs not run again
results, one line each on disk ── report ──> table, JSON, JUnit, HTML
"""
