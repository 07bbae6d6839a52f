# SPDX-License-Identifier: Apache-2.0
"""Follow a model registry: release the version that an alias or a tag moved to, once, and write the outcome back.

registry ── polls, signed webhooks ──> ledger of versions ── release_plan.driver ──> bundle ──> tags in the registry

Three threads share nothing but the ledger, a database in the store: one asks the registry and writes tags, one receives
webhooks, one releases. So a kill loses nothing, and two watchers on one store share the work.
"""
