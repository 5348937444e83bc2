import asyncio
import random

import pytest

from actors.gate import Gate


class Room:
    """Sees who is inside with whom."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.inside: list[bool] = []
        self.most = 0
        self.order: list[int] = []

    async def visit(self, number: int, steps: int, *, alone: bool) -> None:
        async with self.gate.enter(alone=alone):
            self.inside.append(alone)
            self.order.append(number)
            self.most = max(self.most, len(self.inside))
            assert len(self.inside) == 1 or not any(self.inside)
            for _ in range(steps):
                await asyncio.sleep(0)
            self.inside.remove(alone)


@pytest.mark.parametrize("seed", range(20))
def test_everybody_gets_in_and_who_is_alone_is_alone(seed: int) -> None:
    draw = random.Random(seed)
    room = Room()

    async def crowd() -> None:
        visits = [
            room.visit(number, draw.randrange(4), alone=draw.random() < 0.3) for number in range(60)
        ]
        await asyncio.wait_for(asyncio.gather(*visits), 10)

    asyncio.run(crowd())
    assert sorted(room.order) == list(range(60))


def test_many_are_inside_together() -> None:
    room = Room()

    async def crowd() -> None:
        await asyncio.gather(*(room.visit(number, 3, alone=False) for number in range(9)))

    asyncio.run(crowd())
    assert room.most == 9


def test_who_waits_to_be_alone_is_not_passed_by() -> None:
    room = Room()

    async def crowd() -> None:
        first = asyncio.create_task(room.visit(0, 9, alone=False))
        await asyncio.sleep(0)
        alone = asyncio.create_task(room.visit(1, 0, alone=True))
        await asyncio.sleep(0)
        late = asyncio.create_task(room.visit(2, 0, alone=False))
        await asyncio.gather(first, alone, late)

    asyncio.run(crowd())
    assert room.order == [0, 1, 2]


def test_who_gives_up_waiting_holds_nobody_up() -> None:
    room = Room()

    async def crowd() -> None:
        first = asyncio.create_task(room.visit(0, 9, alone=False))
        await asyncio.sleep(0)
        alone = asyncio.create_task(room.visit(1, 0, alone=True))
        await asyncio.sleep(0)
        alone.cancel()
        await asyncio.wait_for(room.visit(2, 0, alone=False), 10)
        await first

    asyncio.run(crowd())
    assert room.order == [0, 2]


def test_an_error_inside_lets_the_next_one_in() -> None:
    gate = Gate()

    async def fail() -> None:
        async with gate.enter(alone=True):
            raise ValueError

    async def crowd() -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - it is our own
            await fail()
        async with asyncio.timeout(10), gate.enter(alone=False):
            pass

    asyncio.run(crowd())
