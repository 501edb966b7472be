"""How a run is told: lines for people, and one JSON object."""

from dynafast.sim.run import Result

HISTORY_LINES = 60  # of the key's story: the end is where it goes wrong


def replay(result: Result, *, faults: str, plants: frozenset[str] = frozenset()) -> str:
    """Return the command that runs the same again."""
    planted = "".join(f" --plant {name}" for name in sorted(plants))
    return (
        f"dynafast sim --seed {result.seed} --nodes {result.options.nodes} --ops {result.options.ops}"
        f" --faults {faults}{planted}"
    )


def last_line(result: Result) -> str:
    """Return the line that a run ends with."""
    figures = f"seed={result.seed} ops={result.ops} events={result.events} digest={result.digest}"
    if result.violation is None:
        return f"sim: ok {figures}"
    return f"sim: failed invariant={result.violation.invariant} {figures}"


def failure(result: Result, command: str) -> list[str]:
    """Return what a failed run says before its last line."""
    violation = result.violation
    if violation is None:
        return []
    lines = [f"seed {result.seed}", f"invariant {violation.invariant}: {violation.detail}"]
    if violation.history is not None:
        key, story = violation.history.key, violation.history.lines
        lines.append(f"history of {key.decode()} ({violation.history.kind.value}):")
        if len(story) > HISTORY_LINES:
            lines.append(f"  ... {len(story) - HISTORY_LINES} lines before")
        lines += [f"  {line}" for line in story[-HISTORY_LINES:]]
    return [*lines, f"replay: {command}"]


def as_json(result: Result, command: str) -> dict[str, object]:
    """Return a run as one JSON object."""
    violation = result.violation
    return {
        "ok": violation is None,
        "seed": result.seed,
        "ops": result.ops,
        "events": result.events,
        "digest": result.digest,
        "virtual_s": result.virtual_s,
        "options": result.options.lines(),
        "outcomes": dict(sorted(result.outcomes.items())),
        "faults": dict(sorted(result.faults.items())),
        "invariant": None if violation is None else violation.invariant,
        "detail": None if violation is None else violation.detail,
        "history": [] if violation is None or violation.history is None else violation.history.lines,
        "replay": command,
    }
