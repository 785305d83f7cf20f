"""The command `icltheory`: reproduce, derive, predict, validate.

Every refusal is one line on the standard error stream and exit status 2; 1 means that a claim or a
model does not agree with theory, 130 that Ctrl-C stopped the run. Exported: `main`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from icltheory.errors import IclTheoryError, InvalidInput
from numeric import derive_command, derive_options
from numeric.text_numbers import LENGTHS, number, positive, prompt_lengths, seed

# What a command needs beyond this is imported when the command runs: `--help` must not wait.
if TYPE_CHECKING:
    from numeric.claims.base import Claim
    from numeric.claims.runner import Outcome, Run

SUCCESS, DISAGREES, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name); returns the exit status.

    >>> main(["derive", "optimal-loss-constant", "--heads", "2", "--latex"])
    d \\sigma^{2} + d + 1
    % optimal loss constant, 2 softmax heads (infimum, not attained)
    % source: ...
    0
    """
    try:
        given = sys.argv[1:] if argv is None else list(argv)
        arguments = _parser().parse_args(given or ["--help"])
        status = arguments.command(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except IclTheoryError as error:
        # One line, whatever the message holds.
        print(f"icltheory: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except MemoryError:
        print(
            "icltheory: error: this needs more memory than there is; ask for less.", file=sys.stderr
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`) has gone; the interpreter must not try to flush to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SUCCESS


class _Parser(argparse.ArgumentParser):
    """Refuses in one line instead of printing the usage as well, and takes -1,1 as a value."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an unknown option first, which may stand for one that is then missing."""
        given = _with_values(args or ())
        known = [] if self._subparsers is not None else list(self._option_string_actions)
        for option in (x.partition("=")[0] for x in given if x.startswith("--")) if known else ():
            if option not in known:
                letter = [derive_options.LETTERS.get(option)]
                near = letter if letter[0] in known else get_close_matches(option, known, 2, 0.55)
                meant = f"; did you mean {' or '.join(map(str, near))}?" if near else ""
                self.error(f"there is no option {option}{meant}")
        found, extra = super().parse_known_args(given, namespace)
        if extra:
            self.error(f"unexpected argument {extra[0]!r}")
        return found, extra

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"{message} (see {self.prog} --help)")


def _with_values(arguments: Sequence[str]) -> list[str]:
    """Arguments with a value that begins with a minus joined to its option by "="."""
    joined: list[str] = []
    for text in arguments:
        value = re.match(r"-[^-]", text) and text != "-h"
        if value and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


class _Version(argparse.Action):
    """`--version`, read from the installed package only when it is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: Any, *unused: Any) -> None:
        from importlib.metadata import version

        print(f"icltheory {version('icltheory')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="icltheory",
        description="Exact theory of in-context linear regression by attention.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="print the version")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=run)
        return sub

    sub = command("reproduce", _reproduce, "Hold the claims of the papers against experiments.")
    sub.add_argument("--quick", action="store_true", help="a first look in minutes")
    sub.add_argument("--paper", metavar="NAME", help="only the claims of this paper")
    sub.add_argument("--claim", metavar="ID", nargs="+", action="extend", help="only these claims")
    sub.add_argument(
        "--list", action="store_true", help="list the claims with their usual times on one core"
    )
    sub.add_argument("--jobs", metavar="N", type=positive, help="processes (default: the cores)")
    sub.add_argument("--out", metavar="DIR", default="reproduction", help="default: %(default)s")
    sub.add_argument("--fresh", action="store_true", help="compute finished claims again")

    sub = command(
        "derive", derive_command.run, "Derive a formula and print it with validity and source."
    )
    derive_options.add_options(sub)

    sub = command("predict", _predict, "Predict the risk against the prompt length.")
    layer = sub.add_mutually_exclusive_group(required=True)
    layer.add_argument(
        "--heads",
        metavar="H",
        type=positive,
        help="softmax heads; from two on, one pair of opposite heads",
    )
    layer.add_argument("--linear", action="store_true", help="linear attention")
    _task_options(sub)
    sub.add_argument(
        "--lengths", metavar="N", type=prompt_lengths, default="10:10000:64", help=LENGTHS
    )
    sub.add_argument("--score-scale", metavar="K", type=number, help="default: the best")
    sub.add_argument("--value-scale", metavar="V", type=number, help="default: the best")
    sub.add_argument("--out", metavar="FILE", required=True, help="FILE.csv, .png, .svg or .pdf")

    sub = command("validate", _validate, "Hold a saved model against the theory.")
    sub.add_argument("checkpoint", metavar="CHECKPOINT", help="file of numeric.finite.save")
    _task_options(sub)
    sub.add_argument("--lengths", metavar="N", type=prompt_lengths, required=True, help=LENGTHS)
    sub.add_argument(
        "--prompts", metavar="N", type=positive, default=400_000, help="default: %(default)s"
    )
    sub.add_argument("--seed", metavar="N", type=seed, default=0, help="default: %(default)s")
    return parser


def _task_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dim", metavar="D", type=positive, required=True, help="dimension")
    parser.add_argument(
        "--noise-var", metavar="S", type=number, default="0", help="label noise; default: 0"
    )


# -- reproduce -----------------------------------------------------------------------------------


def _reproduce(arguments: Any) -> int:
    from numeric import report
    from numeric.claim_times import typical_seconds
    from numeric.claims import runner
    from numeric.claims.base import EFFORTS
    from numeric.display import Display, duration

    known = runner.load_claims()
    claims = _select(known, arguments.paper, arguments.claim)
    effort = EFFORTS["quick" if arguments.quick else "full"]
    times = typical_seconds(claims, effort.name)
    if arguments.list:
        width = max(map(len, claims))
        for name, claim in claims.items():
            usual = duration(times[name])
            print(f"{name:{width}}  {usual:>12}  {claim.title}")
        return SUCCESS
    jobs = min(arguments.jobs or os.cpu_count() or 1, len(claims))
    begin = time.monotonic()
    with Display(sys.stderr, times, jobs) as display:
        run = runner.run(
            claims.values(),
            effort,
            arguments.out,
            jobs=arguments.jobs,
            fresh=arguments.fresh,
            report=display.show,
        )
    # The report keeps what other commands have left in this folder.
    others = [claim for name, claim in known.items() if name not in claims]
    found = {**runner.stored(others, effort, arguments.out), **run.outcomes}
    ordered = {name: found[name] for name in known if name in found}
    path = report.build(ordered, known, Path(arguments.out) / "report.html")
    print(_summary(run))
    print(f"{_total(run)}, in {duration(time.monotonic() - begin)}")
    print(f"report: {path}")
    if run.interrupted:
        print("Stopped. Finished claims are kept: the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    return SUCCESS if run.passed else DISAGREES


def _select(
    claims: dict[str, Claim], paper: str | None, ids: Sequence[str] | None
) -> dict[str, Claim]:
    papers = list(dict.fromkeys(claim.paper for claim in claims.values()))
    if paper is not None and paper not in papers:
        raise InvalidInput(f"there is no paper {paper}; papers: {', '.join(papers)}.")
    chosen = {key: c for key, c in claims.items() if paper in (None, c.paper)}
    for name in ids or ():
        if name in claims and name not in chosen:
            owner = claims[name].paper
            raise InvalidInput(
                f"the claim {name} belongs to paper {owner}; leave out --paper {paper}."
            )
        if name not in chosen:
            near = get_close_matches(name, chosen, 3, 0.7)
            meant = (
                f"did you mean {' or '.join(near)}?" if near else f"claims: {', '.join(chosen)}."
            )
            raise InvalidInput(f"there is no claim {name}; {meant}")
    return {key: c for key, c in chosen.items() if not ids or key in ids}


def _summary(run: Run) -> str:
    """The outcomes as a table, with the parts that failed under their claim."""
    from numeric.display import measures

    rows = [("claim", "verdict", "rows that agree", "time")]
    below: list[list[str]] = [[]]
    for name, outcome in run.outcomes.items():
        rows.append((name, outcome.verdict, *measures(outcome)))
        below.append(list(_complaints(outcome)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = []
    for row, complaints in zip(rows, below, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[3]]).rstrip())
        lines += [f"    {complaint}" for complaint in complaints]
    return "\n".join(lines)


def _total(run: Run) -> str:
    """The verdicts with how many claims have them, and the rows that agree."""
    verdicts = Counter(outcome.verdict for outcome in run.outcomes.values()).most_common()
    told = [f"{count} {verdict}" for verdict, count in verdicts]
    agree, rows = map(sum, zip(*(x.agreeing for x in run.outcomes.values()), strict=True))
    told[0] = told[0].replace(" ", " claim " if verdicts[0][1] == 1 else " claims ", 1)
    told.append(f"{rows} rows" if agree == rows else f"{agree} of {rows} rows agree")
    return ", ".join(told)


def _complaints(outcome: Outcome) -> Iterator[str]:
    from numeric.compare import DEVIATES, POOR_RESOLUTION

    if outcome.error:
        yield f"error: {' '.join(outcome.error.split())}"
    for part in outcome.result.parts if outcome.result is not None else ():
        for row in part.comparison:
            if row.verdict in (DEVIATES, POOR_RESOLUTION):
                setting = ", ".join(f"{key} = {value}" for key, value in row.setting.items())
                yield (
                    f"{part.title}: {setting}: {row.estimate:.6g} against {row.prediction:.6g} "
                    f"predicted, z = {row.z:.1f}: {row.verdict}"
                )
        if not part.control_rejected:
            yield f"{part.title}: the negative control (x {part.control:g}) was not rejected"


# -- predict -------------------------------------------------------------------------------------


def _predict(arguments: Any) -> int:
    import numpy as np

    import icltheory as icl
    from numeric import plot
    from numeric.risk import exact_risk, optimal_risk

    out = Path(arguments.out)
    suffixes = (".csv", *plot.SUFFIXES)
    if out.suffix.lower() not in suffixes:
        raise InvalidInput(f"argument --out: {out} does not end in one of {', '.join(suffixes)}.")
    if not out.parent.is_dir():
        raise InvalidInput(
            f"argument --out: the folder {out.parent} does not exist; make it first."
        )
    task = icl.LinearRegression(arguments.dim, arguments.noise_var)
    attention: Any = (
        icl.LinearAttention() if arguments.linear else icl.SoftmaxAttention(heads=arguments.heads)
    )
    lengths = np.array(arguments.lengths)
    score, value = arguments.score_scale, arguments.value_scale
    if score is None and value is None:
        best = optimal_risk(task, attention, lengths)
        risk, scores, values = best.risk, best.score_scale, best.value_scale
    else:
        if value is None or (score is None and attention == icl.SoftmaxAttention(heads=1)):
            raise InvalidInput(
                "give --score-scale and --value-scale together for one softmax head, --value-scale "
                "alone for other layers, or neither for the best."
            )
        risk = exact_risk(
            task,
            attention,
            lengths,
            score_scale=None if score is None else float(score),
            value_scale=float(value),
        )
        # Other layers have no score scale (linear) or its limit zero (several heads).
        scores = float(score) if score is not None else (np.nan if arguments.linear else 0.0)
        values = float(value)
    columns = np.broadcast_arrays(lengths, risk, scores, values)
    if out.suffix.lower() == ".csv":
        lines = ["prompt_length,risk,score_scale,value_scale"]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        lines += [f"{n},{r!r},{k!r},{v!r}" for n, r, k, v in rows]
        plot.write_atomically(out, "\n".join(lines) + "\n")
    else:
        plot.save(_curve(arguments, columns), out)
    print(f"{len(lengths)} prompt length{'s' * (len(lengths) > 1)}: {out}")
    if not arguments.linear and arguments.heads > 2:
        print(
            f"The risk is that of one pair of opposite heads; {arguments.heads} heads can be better by "
            f"order log(n)/n^2: numeric.optimal_heads."
        )
    return SUCCESS


def _curve(arguments: Any, columns: Sequence[Any]) -> Any:
    from numeric.plot import Figure, Series

    if arguments.linear:
        layer = "linear attention"
    else:
        layer = "one softmax head" if arguments.heads == 1 else "a pair of opposite softmax heads"
    chosen = "best" if arguments.score_scale is arguments.value_scale is None else "given"
    lengths, risk = (tuple(map(float, column)) for column in columns[:2])
    line = Series(f"{layer}, {chosen} parameters, predicted", lengths, risk)
    title = f"Predicted risk, d = {arguments.dim}, noise variance {arguments.noise_var}"
    return Figure(title, "prompt length n", "risk", title, (line,), ())


# -- validate ------------------------------------------------------------------------------------


def _validate(arguments: Any) -> int:
    import icltheory as icl
    from numeric import finite
    from numeric.progress import Interrupted
    from numeric.validate import validate

    model = finite.load(arguments.checkpoint)
    task = icl.LinearRegression(arguments.dim, arguments.noise_var)
    try:
        comparison = validate(
            model, task, arguments.lengths, prompts=arguments.prompts, seed=arguments.seed
        )
    except Interrupted as stop:
        if stop.partial is not None:
            print(stop.partial)
        print(f"Stopped after {stop.done} of {stop.total} prompts.", file=sys.stderr)
        return INTERRUPTED
    print(comparison)
    return SUCCESS if comparison.passed else DISAGREES


if __name__ == "__main__":
    sys.exit(main())
