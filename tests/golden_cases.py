"""Golden cases: folders of a policy, packets, and all that the pure half says of the policy."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from portctl import backends, pipeline, ruletext, sysctl
from portctl.backends.base import Ability
from portctl.problems import has_errors, text

FOLDER = Path(__file__).parent / "golden"
AT = datetime(2026, 7, 1, tzinfo=UTC)
"""The moment for which golden cases are rendered."""
BY_HAND = ("policy.yaml", "packets.txt")


def cases() -> list[Path]:
    """All case folders, by name."""
    return sorted(path.parent for path in FOLDER.glob("*/policy.yaml"))


def compiled(case: Path) -> pipeline.Compiled:
    """The policy of a case, at the moment of all cases."""
    return pipeline.compile(case / "policy.yaml", AT)


def of_case(case: Path) -> tuple[str, ...]:
    """The back ends of a case; those about pf also where it keeps to an anchor."""
    kept_to = [backends.anchored(name) for name in backends.DIALECTS] if case.name.startswith("bsd-") else []
    return (*backends.EVERY, *kept_to)


def computed(case: Path) -> dict[str, str]:
    """Everything that the pure half says of a case's policy: {path in the folder: text}."""
    policy = compiled(case)
    files = {"ruleset.txt": ruletext.text(policy.ruleset)}
    if policy.problems:
        said = "\n\n".join(text(problem) for problem in policy.problems)
        files["problems.txt"] = said.replace(f"{case}/", "") + "\n"
    for name in of_case(case):
        backend = backends.load(name)
        gaps = backend.gaps(policy.ruleset, Ability())
        if gaps:
            files[f"{name}/gaps.txt"] = "\n\n".join(text(gap) for gap in gaps).replace(f"{case}/", "") + "\n"
        if not has_errors(gaps):
            files |= {f"{name}/{file}": content for file, content in backend.render(policy.ruleset, Ability()).items()}
    return files | {f"sysctl/{file}": content for file, content in sysctl.render(policy.ruleset).items()}


def stored(case: Path) -> dict[str, str]:
    """What lies in a case's folder, but for what people write there (policy, packets, lists, fragments)."""
    return {
        str(path.relative_to(case)): path.read_text(encoding="utf-8")
        for path in sorted(case.rglob("*"))
        if path.is_file() and not _by_hand(path.relative_to(case))
    }


def _by_hand(path: Path) -> bool:
    return path.name in BY_HAND or path.parts[0] == "lists" or path.suffix == ".yaml"


def accept(case: Path, files: dict[str, str]) -> None:
    """Makes a folder say what is computed now."""
    for name in set(stored(case)) - set(files):
        (case / name).unlink()
    for name, content in files.items():
        (case / name).parent.mkdir(parents=True, exist_ok=True)
        (case / name).write_text(content, encoding="utf-8")
    for folder in sorted((path for path in case.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def accepting() -> bool:
    """Whether the person asked for the expected texts to be rewritten (`make accept`)."""
    return os.environ.get("PORTCTL_ACCEPT") == "1"
