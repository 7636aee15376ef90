"""Vectors as float32 bytes, little-endian: what OpenAI's base64 form holds, and no more than any provider computes with."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Iterable


def packed(values: Iterable[float]) -> bytes:
    """Numbers as a vector. Raises `ValueError` for one that no float32 holds."""
    made = array("f", values)
    if not all(map(math.isfinite, made)):
        raise ValueError("an embedding holds a number that is none")
    if sys.byteorder == "big":
        made.byteswap()
    return made.tobytes()


def unpacked(vector: bytes) -> list[float]:
    """A vector's numbers, each as a decimal of nine digits, which is this float32 and no other."""
    return [float(f"{value:.9g}") for value in _floats(vector)]


def _floats(vector: bytes) -> array[float]:
    made = array("f")
    made.frombytes(vector)
    if sys.byteorder == "big":
        made.byteswap()
    return made


def from_base64(text: str) -> bytes:
    """A vector in OpenAI's base64 form. Raises `ValueError` where the text is none."""
    try:
        vector = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("an embedding is not base64") from error
    if len(vector) % 4:
        raise ValueError("an embedding is not made of float32")
    return packed(_floats(vector))


def to_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()
