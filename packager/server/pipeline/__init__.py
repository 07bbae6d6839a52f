# SPDX-License-Identifier: Apache-2.0
"""What stands before and behind the graph: texts, images and rows become tensors, tensors become answers, from data."""
