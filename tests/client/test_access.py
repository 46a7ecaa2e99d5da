"""The client and the command get in where a key and certificates are asked for, and say plainly when they do not."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from client.access import Access, untrusted
from client.api import ClientError, GenerateRequest, Sampling, Unreachable, collect
from client.connect import TargetError, connect
from tests.server.doors import KEYS, Authority, write_keys
from tests.server.kit import Harness, fake_model, running

KEY = KEYS["alice"][0]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest_asyncio.fixture
async def server(authority: Authority, tmp_path: Path) -> AsyncIterator[Harness]:
    """Asks for a key, and for a certificate of its clients."""
    own = authority.issue("server")
    tls = {"tls_cert": own.cert, "tls_key": own.key, "tls_client_ca": authority.cert}
    keys = write_keys(tmp_path / "keys.toml", "alice", "prom")
    async with running(fake_model(), api_keys_file=keys, **tls) as harness:
        yield harness


def target_of(transport: str, server: Harness) -> str:
    if transport == "rest":
        return f"https://localhost:{server.app.http_port}"
    return f"grpcs://localhost:{server.app.grpc_port}"


@pytest.mark.parametrize("transport", ["rest", "grpc"])
class TestBoth:
    async def test_key_and_certificate_let_it_in(self, transport: str, server: Harness, authority: Authority) -> None:
        own = authority.issue("client")
        access = Access(KEY, authority.cert, own.cert, own.key)
        async with connect(target_of(transport, server), access) as client:
            assert [card.id for card in await client.models()] == ["fake"]
            assert len(await client.tokenize("abc")) == 3
            request = GenerateRequest("abc", sampling=Sampling(max_tokens=3))
            assert sum(len(piece.token_ids) for piece in [piece async for piece in client.generate(request)]) == 3

    @pytest.mark.parametrize(("key", "status"), [("", 401), (KEY + "x", 401), (KEYS["prom"][0], 403)])
    async def test_a_wrong_key_is_said_to_be_one(
        self, transport: str, key: str, status: int, server: Harness, authority: Authority
    ) -> None:
        own = authority.issue("client")
        async with connect(target_of(transport, server), Access(key, authority.cert, own.cert, own.key)) as client:
            with pytest.raises(ClientError) as refused:
                await client.models()
            assert refused.value.status == status
            assert refused.value.code == ("invalid_api_key" if status == 401 else "permission_denied")
            asked = [collect(client.generate(GenerateRequest("abc"))) for _ in range(20)]
            for error in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(error, ClientError) and (error.status, error.code) == (status, refused.value.code)
            assert not key or key not in str(refused.value)

    async def test_without_a_certificate_nobody_answers(
        self, transport: str, server: Harness, authority: Authority
    ) -> None:
        async with connect(target_of(transport, server), Access(KEY, authority.cert)) as client:
            with pytest.raises(Unreachable):
                await client.models()

    async def test_a_certificate_of_an_unknown_authority_is_said_to_be_one(
        self, transport: str, authority: Authority
    ) -> None:
        own = authority.issue("server")
        async with running(fake_model(), tls_cert=own.cert, tls_key=own.key) as server:
            target = target_of(transport, server)
            async with connect(target, Access()) as client:
                with pytest.raises(Unreachable) as refused:
                    await client.models()
        why = "unable to get local issuer certificate"
        said = (
            f"the certificate of {target} is not trusted ({why}): --ca FILE or DYNO_CA names the authority it is from"
        )
        assert str(refused.value) == said

    async def test_the_command_has_flags_and_variables_for_it(
        self, transport: str, server: Harness, authority: Authority
    ) -> None:
        own = authority.issue("client")
        target = ["--target", target_of(transport, server)]
        flags = ["--ca", str(authority.cert), "--cert", str(own.cert), "--key", str(own.key)]
        load = [
            "--concurrency",
            "2",
            "--requests",
            "2",
            "--output-tokens",
            "3",
            "--prompt-tokens",
            "4",
            "--warmup",
            "0",
        ]
        variables = {"DYNO_API_KEY": KEY, "DYNO_CA": str(authority.cert)}
        variables |= {"DYNO_CERT": str(own.cert), "DYNO_KEY": str(own.key)}
        generated, loaded, listed, refused = await asyncio.gather(
            dyno("generate", "abc", "--max-tokens", "3", *target, *flags, "--api-key", KEY, "--json"),
            dyno("load", *load, *target, *flags, "--api-key", KEY, "--json"),
            dyno("models", *target, **variables),
            dyno("models", *target, *flags),
        )
        assert generated[0] == 0, generated[1]
        assert loaded[0] == 0, loaded[1]
        assert listed[0] == 0 and "fake" in listed[1]
        assert refused[0] == 1 and "an API key is needed" in refused[1]


async def dyno(*arguments: str, **variables: str) -> tuple[int | None, str]:
    """Exit code and words of the command."""
    command = [sys.executable, "-m", "client.cli", *arguments]
    streams = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    process = await asyncio.create_subprocess_exec(*command, env=os.environ | variables, cwd=ROOT, **streams)
    told, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, told.decode()


def test_an_access_shows_no_key() -> None:
    assert KEY not in repr(Access(KEY))
    assert Access.from_environment({"DYNO_API_KEY": KEY, "DYNO_CA": "a.pem"}) == Access(KEY, Path("a.pem"))
    assert Access.from_environment({}) == Access()


@pytest.mark.parametrize("target", ["ftp://a", "localhost:80", "grpc://", "grpcs:a"])
def test_a_target_that_is_none(target: str) -> None:
    with pytest.raises(TargetError, match="https or grpcs for TLS"):
        connect(target)


@pytest.mark.parametrize("why", ["Hostname mismatch, certificate is not valid for 'a'.", "certificate has expired"])
def test_an_authority_is_not_asked_for_where_it_would_not_help(why: str) -> None:
    assert untrusted("https://a", why) == f"the certificate of https://a is not trusted ({why})"
