"""Descriptors: digests are checked while decoding, unknown fields are ignored, the text of a platform."""

from __future__ import annotations

import msgspec
import pytest

from imagecache.digest import Digest
from imagecache.errors import InvalidDigest
from imagecache.oci.descriptor import Descriptor, Platform, decode_hook

A = "sha256:" + "a" * 64


def test_decoding() -> None:
    text = f'{{"mediaType":"m","digest":"{A}","size":3,"data":"eA==","platform":{{"os":"linux","os.version":"1"}}}}'

    descriptor = msgspec.json.decode(text, type=Descriptor, dec_hook=decode_hook)

    assert descriptor.digest == Digest(A)
    assert descriptor.platform == Platform(os="linux", os_version="1")


def test_a_bad_digest_is_refused_while_decoding() -> None:
    with pytest.raises(InvalidDigest):
        msgspec.json.decode('{"mediaType":"m","digest":"sha256:1","size":3}', type=Descriptor, dec_hook=decode_hook)


def test_the_hook_knows_digests_only() -> None:
    with pytest.raises(NotImplementedError):
        decode_hook(complex, 1)


def test_the_text_of_a_platform() -> None:
    assert str(Platform(os="linux", architecture="arm64", variant="v8")) == "linux/arm64/v8"
    assert str(Platform()) == ""
