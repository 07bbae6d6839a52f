# SPDX-License-Identifier: Apache-2.0
"""Trust: keys, certificates, trust files, and the verification of signed statements."""
