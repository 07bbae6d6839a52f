# SPDX-License-Identifier: Apache-2.0
"""Judge a bundle by a policy profile; list and explain the rules; test them with sample facts.

  check    judge BUNDLE: what it says about itself, and what trusted signers say about it (--trust, --key, …)
  list     print the rules and the profiles
  explain  print what RULE asks, its parameters, the facts it reads, and the profiles that ask it
  test     run the unit tests of rules in DIR (see docs/reference/policies.md)

Without trusted signers there are no statements, and rules that need some say no. Exit code 1: the policy says no.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.cli import options
from packager.cli.console import Console
from packager.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from packager.api import Bundle
    from packager.api.policies import Profile

FOR = "release"
HELP = "judge a bundle by a policy; list, explain and test rules"
EXAMPLES = """  packager policy check digits.bundle.tar --profile release --key release.pub
  packager policy check digits:1.4.0 --profile acme.yaml --trust acme.trust --format sarif > findings.sarif
  packager policy check digits:1.4.0 --profile dev --facts facts.json
  packager policy list
  packager policy explain conformance
  packager policy test policies/tests"""
_ACTIONS = ("check", "list", "explain", "test")
_FORMATS = ("table", "json", "sarif", "junit")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", metavar="ACTION", choices=_ACTIONS, help=", ".join(_ACTIONS))
    parser.add_argument("subject", metavar="BUNDLE|RULE|DIR", nargs="?", help="what is judged, explained or run")
    parser.add_argument(
        "--profile", metavar="P", default="release", help="check: one of ours, or a .yaml file (default: release)"
    )
    parser.add_argument("--format", choices=_FORMATS, default="table", help="check: form of the verdict")
    parser.add_argument("--facts", type=Path, metavar="FILE", help="check: also write the facts that were judged")
    options.add_trust(parser)
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    if args.action == "list":
        return _list(console)
    if args.subject is None:
        wanted = {"check": "a bundle", "explain": "a rule", "test": "a directory"}[args.action]
        raise UsageError(f"`policy {args.action}` needs {wanted}", hint="see `packager policy --help`")
    return {"check": _check, "explain": _explain, "test": _test}[args.action](args, console)


def _check(args: argparse.Namespace, console: Console) -> int:
    from packager import canonical, escape
    from packager.api import policies
    from packager.files import write_atomically

    profile = policies.read_profile(args.profile)
    with console:
        bundle = options.open_reference(args.subject, args, console)
        facts = _facts(bundle, profile, args, console)
        verdict = policies.judge_facts(profile, facts)
    if args.facts:
        write_atomically(args.facts, canonical.dump(facts))
    document = policies.describe_verdict(verdict, bundle)
    if args.format == "json" or (console.json and args.format == "table"):
        text = escape.json_document(canonical.dump(document).decode())
    else:
        text = policies.format_verdict(verdict, f"{bundle.name}:{bundle.version}", args.format)
    console.result(document if console.json else {}, text)
    return 0 if verdict.ok else 1


def _facts(bundle: Bundle, profile: Profile, args: argparse.Namespace, console: Console) -> Mapping[str, Any]:
    """Gather what there is; a bundle that fails verification is not judged at all."""
    from packager.api import policies
    from packager.cli._trust import verifier_of

    verification = None
    if options.wants_trust(args):
        verification = verifier_of(args).verify(bundle, console)
        verification.raise_for_failure()
    known = options.open_workspace(args).advisories_to_read
    return policies.gather_facts(bundle, profile, verification, advisories=known)


def _list(console: Console) -> int:
    from packager.api import policies

    rules, profiles = policies.list_rules(), policies.list_profiles()
    rows = [f"{name:18} {title}" for name, title in rules.items()]
    rows += ["", *(f"{name:18} {', '.join(listed)}" for name, listed in profiles.items())]
    console.result({"rules": rules, "profiles": profiles}, rows)
    return 0


def _explain(args: argparse.Namespace, console: Console) -> int:
    from packager.api import policies

    console.result(policies.describe_rule(args.subject), policies.explain_rule(args.subject))
    return 0


def _test(args: argparse.Namespace, console: Console) -> int:
    from packager.api import policies

    outcomes = policies.run_rule_tests(Path(args.subject))
    failed = [outcome for outcome in outcomes if outcome.problem]
    rows = [f"FAIL  {item.rule}: {item.name}: {item.problem}" for item in failed]
    value = {"ok": not failed, "outcomes": [outcome.to_json() for outcome in outcomes]}
    console.result(value, [*rows, f"{len(outcomes) - len(failed)} passed, {len(failed)} failed"])
    return 1 if failed else 0
