"""Fingerprints, checksums, and settings that are compared key by key."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from dampode._identity import checksum, fingerprint, plain, require_same


def test_a_fingerprint_tells_values_types_and_shapes_apart():
    x = torch.zeros(2, 3)
    others = [x + 1, x.double(), x.view(3, 2), nn.Linear(2, 3), "x", torch.zeros(6)]
    assert fingerprint(x) == fingerprint(x.clone())
    assert len({fingerprint(part) for part in [x, *others]}) == 1 + len(others)
    assert fingerprint("a", "b") != fingerprint("ab")


def test_a_checksum_is_sha256_of_canonical_json():
    assert checksum({"b": [1, 0.5], "a": "ρ"}) == hashlib.sha256(b'{"a":"\\u03c1","b":[1,0.5]}').hexdigest()
    assert checksum({"a": 1, "b": 2}) == checksum({"b": 2, "a": 1}) != checksum({"a": 1, "b": 3})
    with pytest.raises(ValueError, match="not JSON compliant"):
        checksum(float("nan"))
    with pytest.raises(TypeError):
        checksum(torch.zeros(1))


def test_every_difference_is_named():
    found = {"recipe": {"lr": 0.1, "epochs": 3}, "seed": 0, "old": {}}
    asked = {"recipe": {"lr": 0.2, "epochs": 3, "parts": 2}, "seed": 1}
    require_same("run.pt", found, found, "choose another file")
    with pytest.raises(ValueError, match=r"^run\.pt must have the settings asked for: ") as caught:
        require_same("run.pt", found, asked, "choose another file")
    for difference in (
        "recipe.lr is 0.1 there and 0.2 here",
        "recipe.parts is unset there and 2 here",
        "seed is 0 there and 1 here",
        "old is {} there and unset here",
    ):
        assert difference in str(caught.value)
    assert "epochs" not in str(caught.value)
    assert str(caught.value).endswith("; choose another file")


def test_a_missing_key_differs_from_any_value():
    for value in (None, "unset"):
        with pytest.raises(ValueError, match="key is"):
            require_same("file", {"key": value}, {}, "")


def test_plain_values():
    value = {"a": (np.float64(0.5), np.float32(0.25), np.int64(3)), "b": {"c": None, "d": True}, "e": "text"}
    result = plain(value, "settings")
    assert result == {"a": [0.5, 0.25, 3], "b": {"c": None, "d": True}, "e": "text"}
    assert [type(one) for one in result["a"]] == [float, float, int]
    with pytest.raises(TypeError, match=r"settings\.b\.c must be a string or a number, got .* of type object"):
        plain({"b": {"c": object()}}, "settings")
    with pytest.raises(TypeError, match="the keys of settings must be strings, got 1 of type int"):
        plain({1: 2}, "settings")
