"""`amends cancel`, `retry`, `skip` and `resolve`: the decisions of an operator, as command lines."""

from dataclasses import replace
from typing import Annotated

import typer
from pydantic import JsonValue

from amends.aggregates.errors import InputError
from amends.aggregates.values.strict_json import clean_text, parse_json
from amends.cli.exit_codes import ExitCode
from amends.cli.output.remarks import silence_logs
from amends.cli.runtime.operator import ActorOption, actor_name
from amends.cli.runtime.wiring import settings_of
from amends.sagas.engine.interventions import Intervention, InterventionKind

__all__ = ["cancel", "resolve", "retry", "skip"]

_RunId = Annotated[str, typer.Argument(metavar="ID", help="Id of the run.", show_default=False)]
_Step = Annotated[
    str | None,
    typer.Argument(metavar="[STEP]", help="Name of the step; optional if only one is open.", show_default=False),
]
_Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Reason; the journal keeps it.", show_default=False)
]
_Evidence = Annotated[
    str | None,
    typer.Option("--evidence", metavar="TEXT", help="Evidence for the decision, such as a link or a receipt."),
]
_NeededEvidence = Annotated[
    str,
    typer.Option(
        "--evidence", metavar="TEXT", help="Evidence for the decision, such as a link or a receipt.", show_default=False
    ),
]
_Output = Annotated[
    str | None,
    typer.Option("--output", metavar="JSON", help="Result of the step, for later steps; by default null."),
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
_AfterExpiry = Annotated[
    bool, typer.Option("--after-expiry", help="If a worker holds a claim on the step, wait until the claim ends.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print the consequences and the outcome as JSON.")]


def cancel(  # noqa: PLR0917 - arguments and options of the command line
    ctx: typer.Context,
    run_id: _RunId,
    reason: _Reason,
    actor: ActorOption = None,
    yes: _Yes = False,  # noqa: FBT002 - an option
    as_json: _Json = False,  # noqa: FBT002 - as above
) -> ExitCode:
    """Undo a run that has not passed its pivot.

    The run starts nothing new, waits for calls in flight, and then undoes every step that may have acted. A second
    request changes nothing. The command first shows the consequences and asks; if the run has moved on meanwhile, the
    command changes nothing.
    """
    wanted = Intervention(kind=InterventionKind.CANCEL, actor=actor_name(actor), reason=reason)
    return _decide(ctx, run_id, wanted, yes=yes, as_json=as_json)


def retry(  # noqa: PLR0917 - as above
    ctx: typer.Context,
    run_id: _RunId,
    reason: _Reason,
    step: _Step = None,
    evidence: _Evidence = None,
    actor: ActorOption = None,
    yes: _Yes = False,  # noqa: FBT002 - as above
    after_expiry: _AfterExpiry = False,  # noqa: FBT002 - as above
    as_json: _Json = False,  # noqa: FBT002 - as above
) -> ExitCode:
    """Retry a step, its probe or its undo.

    The new attempt starts at once, with a new budget if the old one is spent. A step that was refused or failed is
    tried under a new key, and so is a refused undo; everything else keeps the key that the participant knows.
    """
    wanted = Intervention(
        kind=InterventionKind.RETRY, actor=actor_name(actor), reason=reason, node=step, evidence=evidence
    )
    return _decide(ctx, run_id, wanted, yes=yes, as_json=as_json, after_expiry=after_expiry)


def skip(  # noqa: PLR0917 - as above
    ctx: typer.Context,
    run_id: _RunId,
    reason: _Reason,
    step: _Step = None,
    output: _Output = None,
    evidence: _Evidence = None,
    actor: ActorOption = None,
    yes: _Yes = False,  # noqa: FBT002 - as above
    after_expiry: _AfterExpiry = False,  # noqa: FBT002 - as above
    as_json: _Json = False,  # noqa: FBT002 - as above
) -> ExitCode:
    """Skip a step, or skip its compensation.

    A run that goes forward continues as if the step had returned --output. In a run that goes back, the effect of the
    step stays.
    """
    wanted = Intervention(
        kind=InterventionKind.SKIP,
        actor=actor_name(actor),
        reason=reason,
        node=step,
        evidence=evidence,
        output=_json(output),
    )
    return _decide(
        ctx, run_id, wanted, yes=yes, as_json=as_json, after_expiry=after_expiry, has_output=output is not None
    )


def resolve(  # noqa: PLR0917 - as above
    ctx: typer.Context,
    run_id: _RunId,
    reason: _Reason,
    evidence: _NeededEvidence,
    step: _Step = None,
    output: _Output = None,
    not_done: Annotated[bool, typer.Option("--not-done", help="Record that the step took no effect.")] = False,  # noqa: FBT002 - as above
    actor: ActorOption = None,
    yes: _Yes = False,  # noqa: FBT002 - as above
    after_expiry: _AfterExpiry = False,  # noqa: FBT002 - as above
    as_json: _Json = False,  # noqa: FBT002 - as above
) -> ExitCode:
    """Record the outcome of a step or of its undo.

    In a run that goes forward: record your finding that the step took effect and returned --output, or that it took no
    effect (--not-done). In a run that goes back: record that the effect of the step is undone, by any means.
    """
    if not_done and output is not None:
        raise InputError("--not-done says that the step took no effect, so it has no result; leave --output out")
    wanted = Intervention(
        kind=InterventionKind.RULE_OUT if not_done else InterventionKind.RESOLVE,
        actor=actor_name(actor),
        reason=reason,
        node=step,
        evidence=evidence,
        output=_json(output),
    )
    return _decide(
        ctx, run_id, wanted, yes=yes, as_json=as_json, after_expiry=after_expiry, has_output=output is not None
    )


def _json(output: str | None) -> JsonValue:
    return None if output is None else parse_json(output, what="--output")


def _decide(
    ctx: typer.Context,
    run_id: str,
    wanted: Intervention,
    *,
    yes: bool,
    as_json: bool,
    after_expiry: bool = False,
    has_output: bool = False,
) -> ExitCode:
    silence_logs()
    # The command line need not be valid text, and the journal stores nothing else.
    wanted = replace(
        wanted,
        reason=clean_text(wanted.reason),
        evidence=None if wanted.evidence is None else clean_text(wanted.evidence),
    )
    from amends.cli.runtime.intervene import Request, carry_out  # noqa: PLC0415 - imports the database

    request = Request(run_id, wanted, yes=yes, json=as_json, after_expiry=after_expiry, has_output=has_output)
    return carry_out(settings_of(ctx), request)
