# SPDX-License-Identifier: Apache-2.0
"""Turn registered models into reproducible, signed bundles that say what they run on.

The data flow, which is also the reading order of the package:

    recipe ── lock ──> lock            resolve every mutable name once
    lock   ── build ─> bundle          fetch, export, compile, measure; then judge and assemble
    bundle ── sign ──> referrers       statements about the bundle's digest
    bundle ── verify, unpack, install, serve      offline, at any site

Nothing heavy is imported here: `packager verify` must start in a tenth of a second.
"""

__version__ = "0.1.0"
DISTRIBUTION = "model-packager"
"""The name in package indexes, where `packager` is another project."""
