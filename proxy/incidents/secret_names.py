"""Which names say that their value is a secret, and which values look like one or like something else.

Must not: look at what stands around a name or a value; that is for whoever found them.
Invariant: takes time linear in the name and the value, and gives the same answer wherever they were found.
"""

from __future__ import annotations

import base64
import binascii
import re

_WORDS = (
    r"password|passwd|passphrase|pass|pwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|account[_-]?key|private[_-]?key"
    r"|secret[_-]?key(?:[_-]?base)?"
    r"|signing[_-]?key|encryption[_-]?key|credentials?|authorization|cookie|bearer|jwt|connection[_-]?string"
)
_JOINED = r"password|passwd|passphrase|(?:auth|access|refresh|session|bearer|api)token|clientsecret"
"""As they stand at the end of a name without anything between: PGPASSWORD."""
_KEY = re.compile(rf"(?:.*[_.:-])?(?:{_WORDS})|.*(?:{_JOINED})", re.IGNORECASE | re.DOTALL)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_SECRET = re.compile(
    r"(?:.*[_.-])?(?:page|next|prev|previous|continuation|cancellation|eos|bos|pad|unk|sep|cls|mask|special|stop|start|end"
    r"|prefix|suffix|middle|fill|image|audio|video|tile|infer|new|newline|line|first|last|current|eot"
    r"|public[_.-]?key)[_.-]?token",
    re.IGNORECASE | re.DOTALL,
)
_PERHAPS = re.compile(r"(?:.*[_.-])?auth|.*[a-z0-9][_.-]key", re.IGNORECASE | re.DOTALL)
"""`OPENAI_KEY`, `"auth"`: many names end so, and only some of them are of secrets."""
_HARDLY = re.compile(
    r"(?:.*[_.-])?(?:primary|foreign|public|pub|cache|sort|partition|range|hash|idempotency|lookup|map|group|index|unique|routing"
    r"|object|s3|storage|local|state|query|registry|natural|composite|dedup|row|column|item|config|i18n|translation"
    r"|message|event|metric|feature|react|dict|json|hot|short)[_.-]key",
    re.IGNORECASE | re.DOTALL,
)
_PLAIN_WORDS = frozenset(
    "string number null none true false object boolean integer bytes password passwd token secret required optional "
    "undefined any unknown self api_key apikey username value pass bearer basic authorization".split()
)
_PLACEHOLDER = re.compile(
    r"(?:(?:basic|bearer|token|apikey) *)?(?:|\$\w+|%\w+%|%[sdrv](?::%[sdrv])?|\*+|\.+|…|x{3,}|X{3,}|<[^<>]{0,64}>"
    r"|\{+[^{}]{0,64}\}+"
    r"|(?:your|my)[ _-](?:[a-z]+[ _-])*(?:key|token|password|secret)(?:[ _-]here)?)",
    re.IGNORECASE,
)
_TEMPLATES = ("<|", "${", "{{", "$(", "%(", "#{", "<%", "urn:")
_PATH = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\][\w.@-]+(?:[/\\][\w.@-]+)*")
_PIECE = re.compile(r"[A-Za-z0-9]{8,}")
_MIXED = re.compile(r"[A-Za-z]\d+[A-Za-z]|\d[A-Za-z]+\d")
_HEX = re.compile(r"[0-9a-f]+|[0-9A-F]+|[0-9a-f-]{36}")
_CALLED = re.compile(r"[A-Za-z_][\w.]{0,64}\(")
_NAMED = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)*")
_VARIABLE = re.compile(r"[A-Z]+(?:_[A-Z]+)+")
_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def is_secret(name: str) -> bool:
    """Whatever stands under it."""
    parted = _CAMEL.sub("_", name)
    return _KEY.fullmatch(parted) is not None and _NO_SECRET.fullmatch(parted) is None


def may_be_secret(name: str) -> bool:
    """If the value is a random one, `is_random_under`."""
    parted = _CAMEL.sub("_", name)
    return _PERHAPS.fullmatch(parted) is not None and _HARDLY.fullmatch(parted) is None


def is_random_under(name: str, value: str) -> bool:
    """Is it a secret under a name that only may be one's? A hash under a name in small letters is none."""
    if name.lower().endswith("auth"):
        return looks_random(value) or _is_user_and_password(value)
    return looks_random(value) and (name.isupper() or _HEX.fullmatch(value) is None) and not value.startswith("ssh-")


def kind_of(name: str) -> str:
    """What a mark in the place of its value says."""
    parted = _CAMEL.sub("_", name).lower().replace("-", "_")
    words = ("password", "authorization", "cookie", "token", "secret", "signature")
    return next((word for word in words if word in parted), "key")


def is_placeholder(value: str) -> bool:
    """A word or a template that stands where a secret is to be put in."""
    return (
        value.lower() in _PLAIN_WORDS
        or value.startswith(_TEMPLATES)
        or (len(value) <= 128 and (_PLACEHOLDER.fullmatch(value) is not None or _is_name(value)))
    )


def is_attribute(value: str) -> bool:
    """`config.password`, as code reads it: the last part has no digit."""
    return _ATTRIBUTE.fullmatch(value) is not None and not any(char.isdigit() for char in value.rpartition(".")[2])


def _is_name(value: str) -> bool:
    """`ENV_API_KEY = "API_KEY"`, `private_key: "_RSAPrivateKey"`: it says what it is for, as no secret does."""
    parted = _CAMEL.sub("_", value)
    return (
        ("_" in parted or "." in parted)
        and _NAMED.fullmatch(value) is not None
        and (is_secret(value) or _VARIABLE.fullmatch(value) is not None)
    )


def is_call(value: str) -> bool:
    """`get_password()`."""
    return _CALLED.match(value) is not None and value.endswith(")")


def is_path(value: str) -> bool:
    """Of a file in which the secret is, not the secret."""
    return _PATH.fullmatch(value) is not None and not looks_random(value) and value.count(".") + value.count("/") > 1


def is_bare_secret(value: str, name: str, is_environment: bool) -> bool:
    """A value without quotes may be code: only one that no name or type would look like is a secret.

    is_environment: does it stand as in a file of environment variables, `NAME=value`?
    """
    if is_placeholder(value) or is_path(value):
        return False
    if is_environment and name.isupper():
        return True
    digits = sum(char.isdigit() for char in value)
    if digits == len(value.replace("_", "")):
        return len(value) >= 6 and "token" not in name.lower() and name.lower() != "pass"
    return digits > 0 and len(value) >= 6 and not value.startswith(("self.", "os.", "http://", "https://"))


def looks_random(value: str) -> bool:
    """Letters and digits in a mixture that no name has: `sk-learn-contrib-v2` is a name, a key is not."""
    if len(value) < 12 or any(char.isspace() for char in value):
        return False
    for piece in _PIECE.finditer(value):
        text = piece[0]
        digits = sum(char.isdigit() for char in text)
        if 0 < digits < len(text) and ((len(text) >= 16 and digits > 2) or _MIXED.search(text)):
            return True
    return False


def looks_encoded(value: str) -> bool:
    """As what follows `Basic` or `Bearer`."""
    return looks_random(value) or value.endswith("=") or _is_user_and_password(value)


def _is_user_and_password(value: str) -> bool:
    """Is it base64 of `user:password`?"""
    try:
        text = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return False
    return ":" in text and text.isprintable()
