"""Testing sagas without a server: given / when / then, scripted effects and a virtual clock.

This is the public home of what `amends.sagas.testing_asyncio` defines.
"""

from amends.sagas.testing_asyncio import LostReply, Scenario, Then

__all__ = ["LostReply", "Scenario", "Then"]
