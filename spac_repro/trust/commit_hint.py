"""How the code of two commits can be compared."""

from spac_repro.runs import environment


def advice(*commits: str | None) -> str:
    """What to do about runs of different commits: `git diff`, if the checkout has them all.

    Args:
        commits: commits of two runs; None where a run does not say.
    """
    if None in commits or "None" in commits:
        return "other code; one of the two does not name its commit"
    names = [str(commit) for commit in commits]
    short = [name[:8] for name in names]
    found = {name[:8]: environment.has_commit(name) for name in names}
    if missing := [name for name, there in found.items() if there is False]:
        return f"other code, which cannot be shown: commit {' and '.join(missing)} is not in the git history here"
    if None in found.values():
        return f"other code; in a checkout of the package, `git diff {' '.join(short)}` shows it"
    return f"other code; `git diff {' '.join(short)}` shows it"
