# SPDX-License-Identifier: Apache-2.0
"""The rules that judge a build, one file each; `profiles/*.yaml` combine them.

A rule is a module with a docstring (its documentation), `VERSION` (raised by hand when the rule may judge the same
facts differently), `FACTS` (the sections it reads), `DEFAULTS` and `check(facts, **params)`, a pure generator of
findings: facts in, findings out, no clock, no files, no network. A missing fact is a finding, not a pass.
"""
