# SPDX-License-Identifier: Apache-2.0
"""The build: export, compile and measure each target, judge the result, assemble the bundle."""
