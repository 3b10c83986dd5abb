"""Adapters for Kafka and for brokers that speak its protocol: a source of pipelines and a sink of relays. Does I/O.

The folder may import the ports (`pipelines.source`, `pipelines.sink`) and `pipelines.definition`, and needs the extra
`amends[kafka]`. Start with `source`, which connects; `fetch` reads one partition, `topics` the metadata, `client` has
the settings and errors of the library, and `sink` publishes.
"""

from amends.aggregates.errors import DefinitionError

__all__ = ["confluent_kafka"]

try:
    import confluent_kafka  # modules of this folder import it at their top
except ImportError as error:
    raise DefinitionError(f"Kafka needs its client ({error}); pip install 'amends[kafka]'") from error
