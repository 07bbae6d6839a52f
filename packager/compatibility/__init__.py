# SPDX-License-Identifier: Apache-2.0
"""What is known of runtimes, hosts and fleets, and what follows for a graph before anything is loaded."""
