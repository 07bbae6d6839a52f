# SPDX-License-Identifier: Apache-2.0
"""Derive the licence of a distribution as an SPDX expression from its metadata.

In this order: `License-Expression` (PEP 639); a `License` field that is an expression or a common spelling of one; a
classifier that names one licence. Ambiguous texts ("BSD License", or several classifiers, which may mean "and" or "or")
are no expression: they are reported as they are, never guessed. Sources: PEP 639, the list of trove classifiers,
spdx.org/licenses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

# Spellings of `License` that mean one licence, lower case, without "the", "license", "version" and punctuation.
_SPELLINGS = {
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache2": "Apache-2.0",
    "apache v2": "Apache-2.0",
    "apache software 2.0": "Apache-2.0",
    "apache v2.0": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "asl 2": "Apache-2.0",
    "apache software": "Apache-2.0",
    "mit": "MIT",
    "expat": "MIT",
    "isc": "ISC",
    "isc iscl": "ISC",
    "3-clause bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "bsd3": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "bsd-3": "BSD-3-Clause",
    "2-clause bsd": "BSD-2-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause",
    "mpl 2.0": "MPL-2.0",
    "mpl2": "MPL-2.0",
    "mozilla public 2.0": "MPL-2.0",
    "mpl-2": "MPL-2.0",
    "psf": "PSF-2.0",
    "psfl": "PSF-2.0",
    "python software foundation": "PSF-2.0",
    "unlicense": "Unlicense",
    "lgpl-3": "LGPL-3.0-only",
    "lgplv3": "LGPL-3.0-only",
    "gplv3": "GPL-3.0-only",
    "gplv2": "GPL-2.0-only",
    "zlib": "Zlib",
    "zlib/libpng": "Zlib",
    "cc0": "CC0-1.0",
    "boost": "BSL-1.0",
    "zpl 2.1": "ZPL-2.1",
}

# Classifiers below `License :: OSI Approved` (or `License`) that name one licence.
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": None,  # ambiguous: two, three or four clauses
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "University of Illinois/NCSA Open Source License": "NCSA",
    "Zope Public License": "ZPL-2.1",
    "zlib/libpng License": "Zlib",
}


def from_metadata(
    expression: str | None, field: str | None, classifiers: Iterable[str]
) -> tuple[str | None, str | None]:
    """Return (SPDX expression or None, the stated text where there is no expression, or None)."""
    for text in (expression, field):
        if text and (found := to_expression(text)):
            return found, None
    named = sorted({row.rpartition(" :: ")[2] for row in classifiers if row.startswith("License ::")})
    known = [_CLASSIFIERS.get(name) for name in named if name != "OSI Approved"]
    if len(known) == 1 and known[0]:
        return known[0], None
    words = ", ".join(named) or (field or "").strip().partition("\n")[0]
    return None, words[:120] or None


def to_expression(text: str) -> str | None:
    """Return one line as an SPDX expression, where it is one or a common spelling of one; else None."""
    line = text.strip()
    if not line or "\n" in line or len(line) > 512:
        return None
    plain = re.sub(r"\b(the|licen[sc]e|version)\b|[,()]", " ", line.lower().replace("licence", "license"))
    if found := _SPELLINGS.get(re.sub(r"\s+", " ", plain).strip()):
        return found
    try:
        return canonicalize_license_expression(line)
    except InvalidLicenseExpression:
        return None
