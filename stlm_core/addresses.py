"""Addresses as they may be shown and kept: without user and password."""

from __future__ import annotations

import re

# After a scheme to the last @, which may be in the password, too; so may a slash in a database's address, but a port is
# no password. Without a scheme a colon tells a password, unless it is that of a name such as `models:/line@champion`.
_USERINFO = re.compile(
    r"://(?:[^/\s:@]*:(?!\d{1,5}/)\S*@|[^/\s]*@)"
    r"|(?<![^\s'\"])[^\s'\":]*:(?!/)[^\s'\"]*@"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def without_userinfo(message: str) -> str:
    """A sentence without user and password in the addresses that it quotes."""
    return _USERINFO.sub(lambda found: "://" if found[0].startswith("://") else "", message)


def without_credentials(uri: str) -> str:
    """``uri`` without user, password, query and fragment; a path that is no address stays as it is."""
    return re.sub(r"[?#].*$", "", without_userinfo(uri)) if "://" in uri else uri


def plain_address(address: str) -> str:
    """What was given as an address and may be none, without all that stands before an ``@`` or after a ``?`` or ``#``,
    where credentials could be."""
    before, _, after = address.rpartition("@")
    scheme = _SCHEME.match(before)
    if re.search(r"[?#]", before):  # which of the two holds the secret, nobody can tell
        after = "…"
    return (scheme[0] if scheme else "") + re.split(r"[?#]", after)[0]
