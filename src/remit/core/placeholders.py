"""Placeholders of the shape that clients expect: some look at a key before they send it.

A placeholder is derived from a name, so that every node and every restart gives the same one. It is worth nothing
anywhere: where it is sent to a host that its credential is not pinned to, it arrives as it is. None has the checksum
that some issuers put into theirs (GitHub, npm), so that whoever looks for leaked tokens does not take it for one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from string import ascii_letters, ascii_uppercase, digits

_ALPHANUMERIC = digits + ascii_letters
_URL_SAFE = _ALPHANUMERIC + "-_"
_BASE32 = ascii_uppercase + "234567"

SHAPES: Mapping[str, tuple[str, str, int, str]] = {
    "generic": ("ph_", _ALPHANUMERIC, 32, ""),
    "github": ("ghp_", _ALPHANUMERIC, 36, ""),
    "github-fine-grained": ("github_pat_", _ALPHANUMERIC, 82, ""),
    "gitlab": ("glpat-", _URL_SAFE, 20, ""),
    "anthropic": ("sk-ant-api03-", _URL_SAFE, 93, "AA"),
    "openai": ("sk-proj-", _ALPHANUMERIC, 48, ""),
    "aws-access-key": ("AKIA", _BASE32, 16, ""),
    "aws-secret-key": ("", _ALPHANUMERIC + "+/", 40, ""),
    "google": ("AIza", _URL_SAFE, 35, ""),
    "slack-bot": ("xoxb-", digits, 24, ""),
    "slack-user": ("xoxp-", digits, 24, ""),
    "npm": ("npm_", _ALPHANUMERIC, 36, ""),
    "pypi": ("pypi-AgEIcHlwaS5vcmc", _URL_SAFE, 80, ""),
    "stripe": ("sk_test_", _ALPHANUMERIC, 24, ""),
    "huggingface": ("hf_", ascii_letters, 34, ""),
}
"""Shape → what it begins with, its characters, how many of them, what it ends with."""

USUAL: Mapping[str, str] = {
    "GITHUB_TOKEN": "github",
    "GH_TOKEN": "github",
    "GITLAB_TOKEN": "gitlab",
    "ANTHROPIC_API_KEY": "anthropic",
    "OPENAI_API_KEY": "openai",
    "AWS_ACCESS_KEY_ID": "aws-access-key",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-key",
    "GOOGLE_API_KEY": "google",
    "GEMINI_API_KEY": "google",
    "SLACK_BOT_TOKEN": "slack-bot",
    "SLACK_TOKEN": "slack-bot",
    "NPM_TOKEN": "npm",
    "NODE_AUTH_TOKEN": "npm",
    "STRIPE_API_KEY": "stripe",
    "HF_TOKEN": "huggingface",
}
"""Variables that clients read, and the shape of what they expect there."""


def shaped(shape: str, name: str) -> str:
    """The placeholder of this shape for `name`."""
    begin, alphabet, length, end = SHAPES[shape]
    stream = hashlib.shake_256(f"placeholder {shape} {name}".encode()).digest(length)
    return begin + "".join(alphabet[byte % len(alphabet)] for byte in stream) + end
