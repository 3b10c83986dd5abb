"""Calling the user's effects, with a bound.

An `async def` is cancelled when its time is over. A `def` runs in a thread that cannot be stopped: when its time is
over it is left alone, and what it does afterwards is recognised by its key, if the participant looks.
"""

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor

from amends.sagas.outcome import Failed, Outcome
from amends.sagas.registry import Registry
from amends.sagas.task import Task, outcome_of_error, outcome_of_result

__all__ = ["call_effect"]


async def call_effect(registry: Registry, task: Task, threads: ThreadPoolExecutor | None = None) -> Outcome:
    """Call an effect, its compensation or its probe.

    Args:
        registry: Where the codec of the result is found.
        task: What to call.
        threads: Where plain functions run; `None` for the loop's own pool.

    Returns:
        What became of it. Nothing that the function raises passes through, except the cancellation of the caller.
    """
    timeout = task.operation.timeout
    bound = None if timeout is None else timeout.total_seconds()
    try:
        async with asyncio.timeout(bound) as scope:
            value = await _invoke(task, threads)
    except TimeoutError as error:
        if scope.expired():
            return Failed("TimeoutError", f"no answer within {bound:g} s")
        return outcome_of_error(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever an effect raises is its outcome
        return outcome_of_error(error)
    return outcome_of_result(registry, task.step, task.direction, value)


async def _invoke(task: Task, threads: ThreadPoolExecutor | None) -> object:
    function = task.operation.function
    if inspect.iscoroutinefunction(function):
        return await function(task.argument, task.call)
    value = await asyncio.get_running_loop().run_in_executor(threads, function, task.argument, task.call)
    return await value if inspect.isawaitable(value) else value
