"""Keys: how they are written, that they are never shown, and what they do to calls on both transports."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
from pathlib import Path

import pytest

from server.errors import PermissionDenied, TooManyRequests, Unauthenticated
from server.tenancy import EVERYBODY, Tenant
from server.transport.auth import access
from server.transport.auth.access import Authoriser, Standing
from server.transport.auth.keys import ApiKey, KeysError, Role, digest_of, parse_keys, read_keys
from tests.fakes import Clock
from tests.server.callers import Refused
from tests.server.doors import KEYS, caller_as, header, reread, until, write_keys
from tests.server.kit import Harness, fake_model, running

KEY = "0123456789abcdef"
SHA = hashlib.sha256(KEY.encode()).hexdigest()
LONG = {"prompt": "abc", "max_tokens": 200, "ignore_eos": True}


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


class TestFiles:
    def test_a_key_or_its_digest(self, tmp_path: Path) -> None:
        plain = write(tmp_path / "a", f'[[keys]]\nname = "a"\nkey = "{KEY}"\nroles = ["inference", "metrics"]\n')
        hashed = write(tmp_path / "b", f'[[keys]]\nname = "a"\nsha256 = "{SHA}"\nroles = ["metrics", "inference"]\n')
        assert read_keys(plain) == read_keys(hashed)
        assert read_keys(plain) == parse_keys(f" a:inference+metrics:{KEY} ,", "X")
        (key,) = read_keys(plain)
        assert key == ApiKey("a", digest_of(KEY.encode()), frozenset({Role.INFERENCE, Role.METRICS}), 64)

    def test_a_bound_of_its_own(self, tmp_path: Path) -> None:
        (key,) = read_keys(write_keys(tmp_path / "keys", "alice", max_concurrent=3))
        assert key.max_concurrent == 3

    def test_everybody_may_read_digests_but_not_keys(self, tmp_path: Path) -> None:
        text = '[[keys]]\nname = "a"\nroles = ["admin"]\n'
        assert read_keys(write(tmp_path / "b", f'{text}sha256 = "{SHA}"', 0o644))
        with pytest.raises(KeysError, match="everybody may read it"):
            read_keys(write(tmp_path / "a", f'{text}key = "{KEY}"', 0o644))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "there is no key"),
            ("keys = []", "there is no key"),
            ("keys = 1", "nothing else"),
            ("[keys]\na = 1", "nothing else"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY}"\nroles = ["admin"]\n[other]', "nothing else"),
            (f'[[keys]]\nkey = "{KEY}', "not TOML"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY}"', "roles must be a list"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY}"\nroles = []', "one or more of inference, metrics, admin"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY}"\nroles = ["king"]', "one or more of inference, metrics, admin"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY}"\nroles = "admin"', "roles must be a list"),
            (f'[[keys]]\nname = "a b"\nkey = "{KEY}"\nroles = ["admin"]', "name must be"),
            (f'[[keys]]\nkey = "{KEY}"\nroles = ["admin"]', "name must be"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY[:15]}"\nroles = ["admin"]', "16 to 512"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY} x"\nroles = ["admin"]', "visible ASCII"),
            (f'[[keys]]\nname = "a"\nsha256 = "{SHA[:-1]}"\nroles = ["admin"]', "64 hexadecimal"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY}"\nsha256 = "{SHA}"\nroles = ["admin"]', "either key or sha256"),
            ('[[keys]]\nname = "a"\nroles = ["admin"]', "either key or sha256"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY}"\nroles = ["admin"]\nrole = 1', "unknown field 'role'"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY}"\nroles = ["admin"]\nmax_concurrent = 0', "max_concurrent"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY}"\nroles = ["admin"]\n' * 2, "the same name"),
            (f'[[keys]]\nname = "a"\nkey = "{KEY}"\nroles = ["admin"]\n[[keys]]\nname = "b"\nsha256 = "{SHA}"\n'
             'roles = ["admin"]', "the same key"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_one_line_without_the_key(self, text: str, words: str, tmp_path: Path) -> None:
        with pytest.raises(KeysError, match=re.escape(words)) as wrong:
            read_keys(write(tmp_path / "keys.toml", text))
        assert KEY[:15] not in str(wrong.value) and "\n" not in str(wrong.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(KeysError, match="No such file"):
            read_keys(tmp_path / "keys.toml")

    def test_a_key_is_nowhere_in_what_is_kept(self) -> None:
        (key,) = parse_keys(f"a:admin:{KEY}", "X")
        assert KEY not in repr(key) and key.digest.hex() not in repr(key)


class TestAuthoriser:
    def authoriser(self, clock: Clock | None = None) -> Authoriser:
        keys = parse_keys(f"a:inference:{KEY},b:admin:{KEY[::-1]}", "X")
        return Authoriser(keys, everybody=set(Role), clock=clock or Clock())

    def test_the_key_names_the_tenant(self) -> None:
        assert self.authoriser().admit([f"Bearer {KEY}".encode()], Role.INFERENCE) == Tenant("a", 64)

    def test_with_keys_nobody_has_a_role_without_one(self) -> None:
        for needed in (*Role, Standing.KEY, None):
            with pytest.raises(Unauthenticated):
                self.authoriser().admit([], needed)
        assert self.authoriser().admit([], Standing.OPEN) is EVERYBODY

    def test_what_is_in_no_table_is_denied_to_all(self) -> None:
        with pytest.raises(PermissionDenied):
            self.authoriser().admit([f"Bearer {KEY}".encode()], None)
        with pytest.raises(PermissionDenied):
            Authoriser(everybody=set(Role)).admit([], None)

    def test_without_keys_a_key_is_not_looked_at(self) -> None:
        assert Authoriser(everybody={Role.INFERENCE}).admit([b"Bearer x"], Role.INFERENCE) is EVERYBODY

    def test_keys_cannot_be_taken_away_altogether(self) -> None:
        with pytest.raises(AssertionError):
            self.authoriser().replace(())

    def test_many_failures_are_turned_away_and_good_keys_are_not(self) -> None:
        clock = Clock(10.0)
        authoriser = self.authoriser(clock)
        for _ in range(access.FAILURES_A_SECOND):
            with pytest.raises(Unauthenticated):
                authoriser.admit([b"Bearer wrong"], Role.INFERENCE)
        with pytest.raises(TooManyRequests):
            authoriser.admit([b"Bearer wrong"], Role.INFERENCE)
        assert authoriser.admit([f"Bearer {KEY}".encode()], Role.INFERENCE).name == "a"
        clock.now += 1.0
        with pytest.raises(Unauthenticated):
            authoriser.admit([b"Bearer wrong"], Role.INFERENCE)

    def test_every_key_is_compared_in_constant_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The loop neither stops at the one that fits nor compares in any other way."""
        compared: list[bytes] = []
        real = access.hmac.compare_digest

        def counting(a: bytes, b: bytes) -> bool:
            compared.append(a)
            return real(a, b)

        monkeypatch.setattr(access.hmac, "compare_digest", counting)
        self.authoriser().admit([f"Bearer {KEY}".encode()], Role.INFERENCE)
        assert len(compared) == 2
        assert "==" not in inspect.getsource(Authoriser._find)


@pytest.mark.parametrize("transport", ["rest", "grpc"])
class TestCalls:
    async def test_so_many_at_once_and_no_more(self, transport: str, tmp_path: Path) -> None:
        path = write_keys(tmp_path / "keys.toml", "alice", "bob", max_concurrent=2)
        async with (
            running(fake_model(sleep=0.01), api_keys_file=path) as server,
            caller_as(transport, server, "alice") as alice,
            caller_as(transport, server, "bob") as bob,
        ):
            held = [asyncio.create_task(alice.stream(**LONG)) for _ in range(2)]
            await until(lambda: len(server.app.service.active) == 2)
            for call in (alice.whole, alice.stream):
                with pytest.raises(Refused) as refused:
                    await call(prompt="abc", max_tokens=1)
                assert (refused.value.kind, refused.value.code) == ("exhausted", "too_many_requests")
                assert refused.value.retry == 1 and "at most 2" in refused.value.message
            assert await bob.whole(prompt="abc", max_tokens=1), "others have places of their own"
            server.hurry()
            await asyncio.gather(*held)
            assert await alice.whole(prompt="abc", max_tokens=1)
            assert server.app.service._places._taken == {}
            rejected = (
                server.app.observer._doors.unserved["fake", "rejected"]
                + server.app.observer._doors.unserved["unknown", "rejected"]
            )
            assert rejected == 2, "refused calls came in, and are counted"

    async def test_every_generation_of_a_call_takes_a_place(self, transport: str, tmp_path: Path) -> None:
        path = write_keys(tmp_path / "keys.toml", "alice", max_concurrent=3)
        async with (
            running(fake_model(sleep=0.01), api_keys_file=path) as server,
            caller_as(transport, server, "alice") as alice,
        ):
            with pytest.raises(Refused) as refused:
                await alice.whole(prompt="abc", max_tokens=1, n=4)
            assert (refused.value.kind, refused.value.param) == ("invalid", "n"), "it would never fit"
            assert "4 generations" in refused.value.message and "at most 3" in refused.value.message
            held = asyncio.create_task(alice.stream(**LONG, n=2))
            await until(lambda: len(server.app.service.active) == 1)
            with pytest.raises(Refused) as refused:
                await alice.whole(prompt="abc", max_tokens=1, n=2)
            assert refused.value.code == "too_many_requests"
            assert len(await alice.whole(prompt="abc", max_tokens=1)) == 1
            server.hurry()
            await held
            assert len(await alice.whole(prompt="abc", max_tokens=1, n=3)) == 3
            assert server.app.service._places._taken == {}

    async def test_tenants_share_no_prefixes(self, transport: str, tmp_path: Path) -> None:
        path = write_keys(tmp_path / "keys.toml", "alice", "bob")
        prompt = "a prompt that is long enough for several blocks"
        async with (
            running(fake_model(), api_keys_file=path) as server,
            caller_as(transport, server, "alice") as alice,
            caller_as(transport, server, "bob") as bob,
        ):
            cached = [
                (await caller.whole(prompt=prompt, max_tokens=1))[0].facts["usage"]
                for caller in (alice, bob, alice, bob)
            ]
            found = [
                one.get("cached_tokens", one.get("prompt_tokens_details", {}).get("cached_tokens")) for one in cached
            ]
            assert found[:2] == [0, 0] and found[2] == found[3] > 0

    async def test_a_key_that_is_taken_out_of_its_file_is_refused(self, transport: str, tmp_path: Path) -> None:
        path = write_keys(tmp_path / "keys.toml", "alice", "bob")
        async with running(fake_model(), api_keys_file=path) as server, caller_as(transport, server, "bob") as bob:
            assert await bob.whole(prompt="abc", max_tokens=1)
            write_keys(path, "alice")
            await until(lambda: len(server.app.credentials.authoriser._keys) == 1)
            with pytest.raises(Refused) as refused:
                await bob.whole(prompt="abc", max_tokens=1)
            assert refused.value.kind == "unauthenticated"
            write(path, "what is this?")  # it does not fall open
            await reread(server)
            async with caller_as(transport, server, None) as nobody:
                with pytest.raises(Refused) as refused:
                    await nobody.whole(prompt="abc", max_tokens=1)
                assert refused.value.kind == "unauthenticated"
            async with caller_as(transport, server, "alice") as alice:
                assert await alice.whole(prompt="abc", max_tokens=1)


async def test_keys_are_in_no_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_keys(tmp_path / "keys.toml", *KEYS)
    async with running(fake_model(), api_keys_file=path) as server:
        await wrong_and_right(server)
        write_keys(path, "alice")
        await reread(server)
    told = capfd.readouterr()
    assert "reloaded" in told.out + told.err
    for key, _ in KEYS.values():
        assert key not in told.out + told.err
        assert digest_of(key.encode()).hex() not in told.out + told.err


async def wrong_and_right(server: Harness) -> None:
    for headers in (header("alice"), header("prom"), {"authorization": f"Bearer {KEYS['root'][0]}x"}):
        for path in ("/v1/models", "/metrics", "/admin/v1/models", "/debug/state"):
            async with server.session.get(server.url + path, headers=headers) as response:
                text = await response.text()
                assert all(key not in text for key, _ in KEYS.values())
