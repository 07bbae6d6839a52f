# SPDX-License-Identifier: Apache-2.0
# What ACME asks of every bundle, beyond the built-in rules. Asked by `packager policy check --profile acme.yaml`, and
# by Conftest over the same facts: `packager policy check BUNDLE --facts facts.json`, `conftest test -p . facts.json`.
package main

import rego.v1

default allow := false

allow if count(deny) == 0

banned := {"torch", "tensorflow-cpu", "pickle5"}

deny contains {"msg": msg, "subject": component.name, "hint": "serve the compiled artefact instead"} if {
	some component in input.components
	component.name in banned
	msg := sprintf("`%s %s` must not be installed on a customer's machine", [component.name, component.version])
}

deny contains {"msg": "the model names nobody who answers for it", "subject": "authors"} if {
	count(input.model.authors) == 0
}

warn contains msg if {
	input.contents.bytes > 1000000000
	msg := sprintf("the bundle has %d bytes; the sites' links carry a gigabyte an hour", [input.contents.bytes])
}
