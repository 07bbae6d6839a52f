# SPDX-License-Identifier: Apache-2.0
"""Trees of every library in one form, and the one way they become a graph.

A reader (`forest`, `histogram`, `lightgbm`, `xgboost`, `catboost`) turns what a library fitted into an `Ensemble`;
`write` puts an ensemble into a graph. A graph finds the leaf of every tree, in the type in which the library compares,
looks the leaf's numbers up, and adds them in the library's order and type. So it falls into the same leaves and makes
the same roundings: labels are equal, ties included.
"""
