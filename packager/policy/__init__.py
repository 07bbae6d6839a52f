# SPDX-License-Identifier: Apache-2.0
"""Judge a bundle: gather facts, ask the rules that a profile names, weigh waivers, report."""
