# SPDX-License-Identifier: Apache-2.0
"""How fast an installation answers on this machine: curves, comparisons of two, and knobs that serve an objective.

installation ── measure (a server of its own, closed-loop clients) ──> rounds ── statistics ──> curves, comparison
                                                                       └─ tune ──> values file with its evidence
"""
