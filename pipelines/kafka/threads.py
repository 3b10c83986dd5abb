"""Calls that block, in a thread of their own. Does I/O."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["run_in"]

T = TypeVar("T")


async def run_in(thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    """Run a call in a thread, and return its result. A cancelled wait does not end the call."""
    return await asyncio.get_running_loop().run_in_executor(thread, call)
