"""Whether a JSON body is what KFP's generated models say: known fields only, of the right types and enumerations."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import kfp_server_api

_PLAIN = {"str": str, "bool": bool, "int": int, "float": (int, float), "object": object}


def check(body: Any, kind: str, where: str = "") -> None:
    """Compare ``body`` with the model or type ``kind``.

    Raises:
        ValueError: it differs; the message names the field.
    """
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        _require(isinstance(body, list), where, body, kind)
        for number, item in enumerate(body):
            check(item, listed[1], f"{where}[{number}]")
    elif mapped := re.fullmatch(r"dict\(str, (.+)\)", kind):
        _require(isinstance(body, dict), where, body, kind)
        for key, item in body.items():
            check(item, mapped[1], f"{where}.{key}")
    elif kind == "datetime":
        _require(isinstance(body, str), where, body, kind)
        datetime.fromisoformat(body)
    elif kind in _PLAIN:
        _require(isinstance(body, _PLAIN[kind]), where, body, kind)
        _require(kind == "bool" or kind == "object" or not isinstance(body, bool), where, body, kind)
    else:
        _check_model(body, getattr(kfp_server_api, kind), where)


def _check_model(body: Any, model: Any, where: str) -> None:
    choices = getattr(model, "allowable_values", None)
    if choices:
        _require(body in choices, where, body, f"one of {choices}")
        return
    _require(isinstance(body, dict), where, body, model.__name__)
    kinds = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    for key, value in body.items():
        _require(key in kinds, where, key, f"a field of {model.__name__}")
        check(value, kinds[key], f"{where}.{key}")


def _require(right: bool, where: str, value: Any, expected: str) -> None:
    if not right:
        raise ValueError(f"{where or 'body'}: {value!r} is not {expected}")
