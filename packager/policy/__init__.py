# SPDX-License-Identifier: Apache-2.0
"""Judge a bundle: gather facts, run the rules of a profile, apply waivers, report."""
