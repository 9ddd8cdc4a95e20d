"""What taOS relies on about commands inside instances, on both backends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.fakes.fixtures import Backend, eventually
from tests.fakes.tiny_image import TinyImage
from tinyagentos.incus import IncusError, IncusTimeout, InstanceRequest

MIB = 1 << 20


@pytest.fixture
async def running(backend: Backend, tiny_image: TinyImage) -> Backend:
    """A backend with the running instance x."""
    await backend.incus.images.add(tiny_image.path, expect=tiny_image.fingerprint)
    request = InstanceRequest("x", image=tiny_image.fingerprint)
    await backend.incus.instances.create(request, start=True)
    return backend


async def processes(backend: Backend) -> int:
    return (await backend.incus.instances.state("x")).processes


async def until_idle(backend: Backend, count: int) -> None:
    async def idle() -> bool:
        return await processes(backend) <= count

    await eventually(idle, within=5)


async def zeros(mib: int) -> AsyncIterator[bytes]:
    for _ in range(mib):
        yield bytes(MIB)


class TestExec:
    async def test_exit_code_and_both_streams(self, running: Backend) -> None:
        argv = ["sh", "-c", "echo out; echo err >&2; exit 3"]
        result = await running.incus.instances.exec("x", argv, within=10)
        assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")

    async def test_environment(self, running: Backend) -> None:
        result = await running.incus.instances.exec("x", ["env"], env={"A": "b c"}, within=10)
        assert b"A=b c\n" in result.stdout

    async def test_a_command_that_is_not_there(self, running: Backend) -> None:
        result = await running.incus.instances.exec("x", ["/none"], within=10)
        assert (result.exit_code, result.stderr) == (127, b"Command not found")

    async def test_many_that_end_at_once(self, running: Backend) -> None:
        run = running.incus.instances.exec
        ended = await asyncio.gather(*(run("x", ["true"], within=20) for _ in range(40)))
        assert {result.exit_code for result in ended} == {0}

    async def test_one_that_is_cancelled_before_it_runs_holds_nobody_up(
        self, running: Backend
    ) -> None:
        for wait in (0.0, 0.001, 0.005, 0.02, 0.05):
            running_it = asyncio.ensure_future(
                running.incus.instances.exec("x", ["sleep", "30"], within=60)
            )
            await asyncio.sleep(wait)
            running_it.cancel()
            begun = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await running_it
            assert time.monotonic() - begun < 1

    async def test_input_is_passed_on_to_its_end(self, running: Backend) -> None:
        result = await running.incus.instances.exec("x", ["cat"], stdin=b"hello", within=10)
        assert (result.exit_code, result.stdout) == (0, b"hello")

    async def test_much_input(self, running: Backend) -> None:
        argv = ["wc", "-c"]
        result = await running.incus.instances.exec("x", argv, stdin=zeros(64), within=60)
        assert result.stdout.strip() == str(64 * MIB).encode()

    async def test_much_output(self, running: Backend) -> None:
        argv = ["sh", "-c", "head -c 33554432 /dev/zero"]
        if running.fake:
            argv = ["head", "-c", "33554432"]
        result = await running.incus.instances.exec("x", argv, within=60)
        assert len(result.stdout) == 32 * MIB

    async def test_more_output_than_is_wanted_ends_the_command(self, running: Backend) -> None:
        argv = ["sh", "-c", "cat /dev/zero"]
        if running.fake:
            argv = ["head", "-c", "33554432"]
        begun = time.monotonic()
        result = await running.incus.instances.exec("x", argv, within=60, most=3 * MIB)
        assert (len(result.stdout), result.exit_code) == (3 * MIB, 137)
        assert time.monotonic() - begun < 20
        assert (await running.incus.instances.exec("x", ["true"], within=10)).exit_code == 0

    async def test_a_command_that_leaves_its_input(self, running: Backend) -> None:
        result = await running.incus.instances.exec("x", ["true"], stdin=zeros(64), within=10)
        assert result.exit_code == 0

    async def test_input_that_breaks_is_told_and_ends_the_command(self, running: Backend) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"1"
            raise FileNotFoundError("the disk went away")

        with pytest.raises(FileNotFoundError):
            await running.incus.instances.exec("x", ["cat"], stdin=chunks(), within=10)

    async def test_output_arrives_while_it_runs(self, running: Backend) -> None:
        go: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def typed() -> AsyncIterator[bytes]:
            while (line := await go.get()) is not None:
                yield line

        go.put_nowait(b"one\n")
        seen = []
        stream = running.incus.instances.exec_stream("x", ["cat"], stdin=typed(), within=10)
        async with stream as execution:
            async for item in execution:
                seen.append(item)
                go.put_nowait(b"two\n" if len(seen) == 1 else None)
        assert seen == [("stdout", b"one\n"), ("stdout", b"two\n")]
        assert execution.exit_code == 0

    async def test_a_stopped_instance_runs_nothing(self, running: Backend) -> None:
        await running.incus.instances.stop("x", force=True)
        with pytest.raises(IncusError, match="not running"):
            await running.incus.instances.exec("x", ["true"], within=10)


class TestEnding:
    async def test_the_deadline_kills_the_command(self, running: Backend) -> None:
        before, began = await processes(running), time.monotonic()
        with pytest.raises(IncusTimeout):
            await running.incus.instances.exec("x", ["sleep", "4711"], within=0.5)
        assert time.monotonic() - began < 3
        await until_idle(running, before)

    async def test_cancelling_kills_the_command(self, running: Backend) -> None:
        before = await processes(running)
        task = asyncio.create_task(running.incus.instances.exec("x", ["sleep", "4711"], within=100))

        async def sleeps() -> bool:
            return await processes(running) > before

        await eventually(sleeps)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 2
        await until_idle(running, before)

    async def test_leaving_the_block_kills_the_command(self, running: Backend) -> None:
        before = await processes(running)
        async with running.incus.instances.exec_stream("x", ["sleep", "4711"], within=100):
            await asyncio.sleep(0.1)
        await until_idle(running, before)


class TestTerminal:
    async def test_what_is_typed_is_seen(self, running: Backend) -> None:
        async with running.incus.instances.exec_interactive("x", ["cat"]) as terminal:
            await terminal.resize(100, 40)
            await terminal.send(b"hello\n")
            seen = await terminal.recv()
            while b"hello" not in seen:
                seen += await terminal.recv()
            await terminal.send(b"\x04")
            assert await asyncio.wait_for(terminal.wait(), 10) == 0
