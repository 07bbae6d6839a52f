# SPDX-License-Identifier: Apache-2.0
"""A model repository of a Triton server: add models and pipelines to it, and switch what is served."""
