"""State diagrams of the documentation, generated from tables of transitions."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from tests.support.paths import ROOT

DOCUMENT = ROOT / "docs" / "architecture.md"


def state_diagram(table: Mapping[Enum, Mapping[Enum, Enum]], initial: Enum) -> str:
    """Return a table of transitions as a Mermaid ``stateDiagram-v2``.

    Events that lead from every state to one and the same state are a note at that state; it is
    final if it has no other event. Transitions from a state to itself are left out.

    :param table: state to event to state, every state of the diagram among its keys.
    """
    everywhere = {
        event: target
        for event, target in table[initial].items()
        if all(events.get(event) is target for events in table.values())
    }
    lines = ["stateDiagram-v2", f"    [*] --> {_name(initial)}"]
    for state, events in table.items():
        edges: dict[Enum, list[str]] = {}
        for event, target in events.items():
            if event not in everywhere and target is not state:
                edges.setdefault(target, []).append(event.name.lower())
        lines += [
            f"    {_name(state)} --> {_name(target)}: {', '.join(labels)}"
            for target, labels in edges.items()
        ]
        if not edges and state in everywhere.values():
            lines.append(f"    {_name(state)} --> [*]")
    notes: dict[Enum, list[str]] = {}
    for event, target in everywhere.items():
        notes.setdefault(target, []).append(event.name.lower())
    for target, labels in notes.items():
        lines.append(f"    note right of {_name(target)}: from every state: {', '.join(labels)}")
    return "".join(f"{line}\n" for line in lines)


def documented_diagrams() -> list[str]:
    """Return the Mermaid diagrams of the architecture document."""
    return [block.partition("```")[0] for block in DOCUMENT.read_text().split("```mermaid\n")[1:]]


def _name(state: Enum) -> str:
    return state.name.lower()
