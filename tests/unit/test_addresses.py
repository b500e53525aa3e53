"""No address is shown with its password."""

from __future__ import annotations

import pytest

from stlm_core.addresses import plain_address, without_credentials, without_userinfo


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:pass@host:5000/path?token=1#x", "http://host:5000/path"),
        ("postgresql+psycopg2://me:secret@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("https://host/a@b", "https://host/a@b"),
        ("https://me:p@ss@w0rd@host/path", "https://host/path"),
        ("postgresql://me:se/cr@t@db/mlflow", "postgresql://db/mlflow"),
        ("http://:secret/1@db", "http://db"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("../images/run#2", "../images/run#2"),
        ("../data/bottle", "../data/bottle"),
        ("https://me:se?cr#t@host/my.pt?sig=hush", "https://host/my.pt"),
    ],
)
def test_credentials_are_never_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "no answer from https://me:p@ss@host:5000/api, nor from http://a:b@other",
            "no answer from https://host:5000/api, nor from http://other",
        ),
        ("'s3://key:hu/sh@bucket/x' is not there", "'s3://bucket/x' is not there"),
        ('"postgresql://me:hush@db": refused', '"postgresql://db": refused'),
        ("url=http://me@host, file=a.png", "url=http://host, file=a.png"),
        ("cannot log in to key:hu/sh@host:9000", "cannot log in to host:9000"),
        ("s3:key:hush@bucket: no address", "bucket: no address"),
        (
            "models:/stlm-caps@champion is not there: ask admin@plant",
            "models:/stlm-caps@champion is not there: ask admin@plant",
        ),
    ],
)
def test_no_password_is_left_in_what_a_server_said(said: str, told: str) -> None:
    assert without_userinfo(said) == told


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://me:secret@host/x?token=1", "https://host/x"),
        ("me:secret@host:/x", "host:/x"),
        ("s3://key/hush@bucket", "s3://bucket"),
        ("https://key:hu?hush@host", "https://…"),
        ("s3://bucket/x", "s3://bucket/x"),
    ],
)
def test_what_may_be_no_address_is_shown_from_its_last_at_sign(given: str, shown: str) -> None:
    assert plain_address(given) == shown
