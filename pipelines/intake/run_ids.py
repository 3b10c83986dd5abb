"""The id of the run that a message starts. Pure."""

from amends.aggregates.errors import InputError
from amends.pipelines.intake.remember import id_hash
from amends.sagas.engine.start import check_run_id

__all__ = ["run_id_of"]


def run_id_of(pipeline: str, message_id: str) -> str:
    """Return the id of the run that a message starts: the message's id, if it can be the id of a run.

    Any other id becomes the pipeline's name with a hash of the id.
    """
    try:
        return check_run_id(message_id)
    except InputError:
        return f"{pipeline}-{id_hash(message_id).hex()}"
