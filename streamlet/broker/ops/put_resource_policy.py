"""PutResourcePolicy: who else may use a stream or a consumer?

Rules and oddities:
- The policy must look like one (a JSON object whose statements have effect, principal, action and resource); then its
  text is kept as it is. It refuses nobody: this broker authorizes no callers. The wordings of the refusals are ours.
- Order: policy -> resource -> status. An existing policy is replaced; the body is empty.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamlet.broker.errors import ApiError, invalid_argument, not_active
from streamlet.broker.ops._base import Call, Operation
from streamlet.broker.ops._resource import RESOURCE_ARN, ResourceRequest, find_resource
from streamlet.broker.schema import Member

__all__ = ["OPERATION"]

_PARTS: Final = (("Principal", "NotPrincipal"), ("Action", "NotAction"), ("Resource", "NotResource"))


class _Request(ResourceRequest, kw_only=True, gc=False):
    policy: str


def _run(call: Call, request: _Request) -> None:
    _check(request.policy)
    resource = find_resource(call, request.resource_arn)
    stream, consumer = resource
    if stream.status in {"CREATING", "DELETING"}:
        raise not_active(stream.name, call.account, stream.status)
    if consumer is not None and consumer.status(call.now_ms) != "ACTIVE":
        raise ApiError(
            "ResourceInUseException",
            f"Consumer {consumer.name} with creation timestamp {consumer.creation_s} under stream {stream.name} "
            f"and account {call.account} is not in ACTIVE status.",
        )
    resource.holder.policy = request.policy


def _check(text: str) -> None:
    try:
        policy = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        raise invalid_argument("The policy is not JSON.") from None
    if not isinstance(policy, dict) or not policy.get("Statement"):
        raise invalid_argument("The policy is not a JSON object with a Statement.")
    statements = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
    for statement in statements:
        _check_statement(statement)


def _check_statement(statement: Any) -> None:
    if not isinstance(statement, dict) or statement.get("Effect") not in ("Allow", "Deny"):
        raise invalid_argument("A policy statement needs an Effect of Allow or Deny.")
    for names in _PARTS:
        if sum(name in statement for name in names) != 1:
            raise invalid_argument(f"A policy statement needs either {names[0]} or {names[1]}.")


OPERATION: Final = Operation("PutResourcePolicy", (RESOURCE_ARN, Member("Policy", "string", required=True)), _Request, _run)
