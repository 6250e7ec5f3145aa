"""What methods on their own samples share: a prompt whose responses are yet to be drawn."""

from alignax.core.records import Group, Record


def prompt_alone(record: Record) -> Group:
    """The prompt of a record; its responses are yet to be drawn."""
    return Group(prompt=record.prompt, responses=(), scores=(), origin=record.origin)
