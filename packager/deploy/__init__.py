# SPDX-License-Identifier: Apache-2.0
"""The site: install a bundle, upgrade and roll back, render deployments for other platforms."""
