"""Sink of NATS JetStream: publishes to subjects, and returns when the streams have stored the messages."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import Header

from amends.aggregates.outbox import ID_HEADER
from amends.aggregates.text import one_line
from amends.pipelines.definition.access import Access
from amends.pipelines.definition.sinks import NatsSink
from amends.pipelines.nats.link import REPLY_S, NatsLink
from amends.pipelines.nats.source import KEY_HEADER
from amends.pipelines.sink import REPEAT_HEADER, Published, Refusal, SinkSetupError, SinkUnreachableError

__all__ = ["NatsPublisher"]

_ROUTING_BYTES = 1024
_NO_RESPONDERS = "503"
# Codes of errors that pass: the server has no room or no leader at present.
_PASSING = frozenset({500, 503})


class NatsPublisher:
    """Publishes messages under their ids, so that a stream drops those that come again within its window.

    Args:
        sink: The description of the servers.
        access: Credentials and certificates.
    """

    def __init__(self, sink: NatsSink, access: Access | None = None) -> None:
        self._link = NatsLink(sink.servers, access or Access(), setup=SinkSetupError, unreachable=SinkUnreachableError)

    async def refusal(self, message: Published) -> str | None:
        """Return the reason for which NATS would refuse a message: its subject, its headers or its size."""
        if not _is_subject(message.topic):
            return "the topic is no subject of NATS: it is empty, or has blanks, wildcards or empty parts"
        headers = _headers(message)
        if any("\r" in text or "\n" in text or ":" in name for name, text in headers.items()):
            return "a header or the key has the end of a line, or the name of a header has a colon"
        client = await self._link.client()
        size = len(message.value) + sum(len(name) + len(text.encode()) for name, text in headers.items())
        if size + _ROUTING_BYTES > client.max_payload:
            return f"the message has {size} bytes with its headers; the server takes {client.max_payload}"
        return None

    async def publish(self, messages: Sequence[Published]) -> Sequence[Refusal]:
        """Publish messages in order, and wait until the streams have stored them.

        Raises:
            SinkSetupError: No stream stores the subject, or the server refuses the credentials.
            SinkUnreachableError: The server does not answer, or its storage is full.
        """
        async with self._link.reporting("messages"):
            acknowledgements = _Acknowledgements(await self._link.client())
            answers = await acknowledgements.publish(messages)
        if len(answers) < len(messages):
            raise SinkUnreachableError(
                f"{self._link.name} has not acknowledged {len(messages) - len(answers)} of {len(messages)} messages"
            )
        reasons = ((index, self._refused(messages[index], answers[index])) for index in range(len(messages)))
        return [Refusal(index, reason) for index, reason in reasons if reason is not None]

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    def _refused(self, message: Published, answer: Msg) -> str | None:
        """Return the reason of the stream for a refusal; `None` if it has stored the message."""
        if (answer.headers or {}).get(Header.STATUS.value) == _NO_RESPONDERS:
            raise SinkSetupError(f"no stream of {self._link.name} stores the subject {message.topic!r}")
        error = json.loads(answer.data).get("error")
        if error is None:
            return None
        reason = one_line(str(error.get("description")))
        if error.get("code") in _PASSING:
            raise SinkUnreachableError(f"{self._link.name} cannot store messages: {reason}")
        return f"NATS refuses it: {reason}"


class _Acknowledgements:
    """Publishes messages, and collects the answers of the streams.

    The client library has such a function as well, but in version 2.16 it never reports a refusal.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._answers: dict[int, Msg] = {}
        self._expected = 0
        self._complete = asyncio.Event()
        self._progress = asyncio.Event()

    async def publish(self, messages: Sequence[Published]) -> dict[int, Msg]:
        """Return the answers by the index of the message; one is absent if no answer came in time."""
        if not messages:
            return {}
        inbox = self._client.new_inbox()
        self._expected = len(messages)
        subscription = await self._client.subscribe(f"{inbox}.*", cb=self._take_in)
        try:
            for index, message in enumerate(messages):
                await self._client.publish(
                    message.topic, message.value, reply=f"{inbox}.{index}", headers=_headers(message)
                )
            await self._client.flush(int(REPLY_S))
            while not self._complete.is_set() and self._client.is_connected:
                self._progress.clear()
                # Each answer renews the wait: a slow server may take long for many messages.
                await asyncio.wait_for(self._progress.wait(), REPLY_S)
        except TimeoutError:
            return self._answers
        finally:
            with suppress(Error):
                await subscription.unsubscribe()
        return self._answers

    async def _take_in(self, answer: Msg) -> None:
        self._answers[int(answer.subject.rpartition(".")[2])] = answer
        self._progress.set()
        if len(self._answers) == self._expected:
            self._complete.set()


def _headers(message: Published) -> dict[str, str]:
    headers = dict(message.headers)
    # A message that is sent again on purpose must not count as a duplicate of its first time.
    repeat = headers.get(REPEAT_HEADER)
    unique = message.id if repeat is None else f"{message.id}/{repeat}"
    return headers | {ID_HEADER: message.id, KEY_HEADER: message.key, Header.MSG_ID.value: unique}


def _is_subject(topic: str) -> bool:
    return all(topic.split(".")) and topic.isprintable() and not set(" *>") & set(topic)
