"""Who goes next in a lane, and the running estimates that a choice is made by."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.predict.estimates import Demand, ForwardTimes, Lateness, Slowness
from app.predict.lane import Lane, Waiting


def test_the_earliest_deadline_goes_first_and_one_group_at_a_time() -> None:
    begun: list[tuple[float, int, int]] = []

    def choose(who: Waiting, num_images_soon: int) -> float:
        begun.append((who.deadline_ms, who.num_images, num_images_soon))
        return who.deadline_ms

    async def run() -> list[float]:
        lane, running, most = Lane(choose, lambda _: False), 0, 0

        async def one(deadline_ms: float, num_images: int) -> float:
            nonlocal running, most
            chosen = await lane.turn(0.0, deadline_ms, num_images)
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            lane.done()
            return chosen

        asked = [one(900, 1), one(500, 20), one(100, 2), one(500, 12), one(500, 5), one(100, 3)]
        answers = await asyncio.gather(*asked)
        assert most == 2
        assert lane.is_idle
        return answers

    assert asyncio.run(run()) == [900, 500, 100, 500, 500, 100]
    # The first found nobody before it. Then pairs of a deadline, as many as go into one batch.
    assert begun == [(900, 1, 0), (100, 2, 3), (500, 20, 17), (500, 5, 0)]


def test_who_gives_up_leaves_the_lane() -> None:
    async def run() -> None:
        lane = Lane(lambda who, _: who.num_images, lambda _: False)
        assert await lane.turn(0.0, 10, 1) == 1
        waiting = [asyncio.create_task(lane.turn(0.0, 10 + place, 40)) for place in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        lane.done()
        waiting[1].cancel()  # its turn has come, and it does not know yet
        await asyncio.wait(waiting)
        assert waiting[0].cancelled() and waiting[1].cancelled()
        assert await waiting[2] == 40
        lane.done()
        assert lane.is_idle

    asyncio.run(run())


def test_who_gives_up_takes_no_room_and_hurries_nobody() -> None:
    async def run() -> None:
        soon: list[int] = []

        def choose(who: Waiting, num_images_soon: int) -> int:
            soon.append(num_images_soon)
            return who.num_images

        lane = Lane(choose, lambda num_images: num_images == 2)
        await lane.turn(0.0, 10, 1)
        deadlines = {20: 3, 21: 40, 22: 2, 23: 2, 24: 40}
        waiting = [asyncio.create_task(lane.turn(0.0, *asked)) for asked in deadlines.items()]
        await asyncio.sleep(0)
        for gone in waiting[1:2] + waiting[4:]:
            gone.cancel()
        await asyncio.sleep(0)
        assert len(lane) == 3
        lane.done()
        assert await waiting[0] == 3
        assert soon == [0, 4]
        lane.done()  # the next two are late: one begins, one waits behind it
        assert await waiting[2] == 2
        assert len(lane) == 1 and lane.has_late
        waiting[3].cancel()
        await asyncio.sleep(0)
        assert not lane.has_late
        lane.done()
        assert lane.is_idle

    asyncio.run(run())


def test_who_is_late_goes_last_and_makes_room_first() -> None:
    async def run() -> list[int]:
        lane, order = Lane(lambda who, _: who.num_images, lambda num_images: num_images > 10), []

        async def one(num_images: int) -> None:
            order.append(await lane.turn(0.0, 100 - num_images, num_images))
            await asyncio.sleep(0)
            lane.done()

        await lane.turn(0.0, 1, 1)
        asked = [asyncio.create_task(one(num_images)) for num_images in (20, 21, 22, 5, 3)]
        await asyncio.sleep(0)
        assert len(lane) == 5 and not lane.has_late
        lane.done()
        assert len(lane) == 4 and lane.has_late, "they are told apart when their turn comes"
        lane.refuse_late(BlockingIOError("full"))
        await asyncio.wait(asked)
        assert [type(task.exception()) for task in asked[:3]] == [type(None), type(None), BlockingIOError]
        assert lane.is_idle
        return order

    assert asyncio.run(run()) == [5, 3, 21, 20]


def test_a_choice_that_fails_is_told_to_who_waits_for_it_and_the_next_goes_on() -> None:
    def choose(who: Waiting, _: int) -> int:
        if who.num_images == 2:
            raise ValueError("no")
        return who.num_images

    async def run() -> None:
        lane = Lane(choose, lambda _: False)
        with pytest.raises(ValueError, match="no"):
            await lane.turn(0.0, 10, 2)
        assert await lane.turn(0.0, 10, 3) == 3

    asyncio.run(run())


@given(st.lists(st.tuples(st.integers(1, 200), st.floats(1e-5, 1)), max_size=30), st.integers(1, 200))
def test_forward_times_are_of_the_size_or_of_the_next_smaller(seen: list[tuple[int, float]], num_images: int) -> None:
    times = ForwardTimes(0.01)
    for count, seconds in seen:
        before = times.seconds(count)
        times.observe(count, seconds)
        assert times.seconds(count) <= max(before, seconds) * (1 + 1e-9)
        if seconds <= before:
            assert times.seconds(count) == pytest.approx(seconds), "down at once"
    assert 0 < times.seconds_per_image <= times.seconds(num_images) / num_images * (1 + 1e-9)


def test_everything_is_slow_for_as_long_as_it_is() -> None:
    slowness = Slowness()
    for _ in range(50):
        slowness.observe(0.001, 0.003)
    assert slowness.factor == pytest.approx(3, rel=0.01)
    for _ in range(50):
        slowness.observe(0.001, 0.0005)
    assert slowness.factor == pytest.approx(1, rel=0.01)


def test_one_moment_of_standstill_is_no_lateness_and_what_was_is_forgotten() -> None:
    lateness = Lateness()
    for answer in range(100):
        lateness.observe(10, 1000 if answer == 50 else 11, now=answer / 100)
    assert lateness.margin_ms(1.0) < 3
    for answer in range(100):
        lateness.observe(10, 60, now=1 + answer / 100)
    assert 40 < lateness.margin_ms(2.0) < 80
    assert lateness.margin_ms(10.0) < 1


def test_demand_is_that_of_the_last_second() -> None:
    demand = Demand()
    for tenth in range(100):
        demand.add(5, tenth / 10)
    assert demand.rate(9.9) == pytest.approx(50, rel=0.1)
    assert demand.rate(14.9) < 1
