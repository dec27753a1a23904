"""Runs the cases of public system-call suites natively and in a rack, and compares their verdicts one by one.

Called by Scripts/conformance.sh, which builds the suites and starts the rack. A program of a suite is run in four places:
natively on the disk and on a tmpfs, in the rack on the storage component's tree and on the sandbox's tmpfs. What it prints is
taken apart into cases (TAP lines of kernel selftests, one line a test of CPython); its exit status is a case as well. A case
counts when the native run gives the same verdict each time it is asked; one that does not is named and left out.

Several programs run at once (--jobs), since most of them sleep most of the time; the same program never runs twice at once.
What a program says under that load is compared first; one whose verdicts differ is run again, natively and in the rack, with
nothing beside it, and all of its runs count.
"""

import argparse
import collections
import concurrent.futures
import itertools
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
import cases

NOBODY = 65534
# How often a program is run once more, natively and in the rack, when its verdicts differ.
REPEATS = 2


class Place:
    """Where a program runs: on which tree, natively or in the rack."""

    def __init__(self, name, tree, in_rack, work, legoctl):
        self.name, self.tree, self.in_rack, self.work, self.legoctl = name, tree, in_rack, work, legoctl

    def command(self, program, number):
        directory = f"/tmp/case-{number}" if self.tree == "tmpfs" else f"{self.work}/trees/{self.name}-{number}"
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": directory, "TMPDIR": directory, "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1", **program.environment,
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        inner = (
            f"umask 022; mkdir -p {directory} && cd {directory} || exit 125; ulimit -S -c 0; ulimit -S -n 1024; "
            f"exec env -i {shlex.join(words)} timeout -k 3 {program.seconds} {shlex.join(program.arguments)}"
        )
        if self.in_rack:
            return [self.legoctl, "run", "--user", "nobody", "--", "/bin/sh", "-c", inner]
        # The sandbox's conditions: the same user without privileges, namespaces, mounts and a fresh tmpfs on /tmp.
        drop = [
            "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
            "--bounding-set=-all", "/bin/sh", "-c", inner,
        ]
        mounts = (
            "mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp && "
            "mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm && "
            "mount -t mqueue -o nosuid,nodev,noexec mqueue /dev/mqueue 2>/dev/null; "
        )
        return ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc", "/bin/sh", "-c",
                f"{mounts} exec setsid {shlex.join(drop)}"]


class Runner:
    """Answers the verdicts of one run of a program, by case. May be called by several threads."""

    def __init__(self, work):
        self.work, self.numbers = work, itertools.count(1)
        # The rack sees this host's tree through an overlay: the directory is there for both.
        (work / "trees").mkdir()
        os.chmod(work / "trees", 0o1777)

    def run(self, place, program, attempt):
        kept = self.work / "output" / place.name / program.suite / f"{program.name.replace('/', '_')}.{attempt}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        command = place.command(program, f"{os.getpid()}-{next(self.numbers)}")
        errors = kept.with_name(kept.name + ".errors")
        with open(kept, "wb") as output, open(errors, "wb") as complaints:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=complaints, start_new_session=True)
            try:
                # The program has its own deadline; this one is for a rack that hangs.
                status = child.wait(program.seconds + 60)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                status = "hangs"
        text = (kept.read_bytes() + b"\n" + errors.read_bytes()).decode(errors="replace")
        verdicts = program.parse(text)
        if isinstance(status, int) and status < 0:
            status = 128 - status  # as a shell says that a signal ended it
        verdicts["exit status"] = "timeout" if status in (124, 137) else str(status)
        return verdicts


class Comparison:
    """The runs of one program on one tree."""

    def __init__(self, runner, program, native, rack):
        self.runner, self.program, self.places = runner, program, (native, rack)
        self.outcomes = ([], [])

    def run(self):
        for place, outcomes in zip(self.places, self.outcomes):
            outcomes.append(self.runner.run(place, self.program, len(outcomes) + 1))

    def differs(self):
        natives, racks = self.outcomes
        return natives[0] != racks[0]

    def rows(self):
        """Answers rows (case, native verdict, rack verdict, kind): kind is same, differs or unstable."""
        natives, racks = self.outcomes
        rows = []
        for case in dict.fromkeys(name for verdicts in natives + racks for name in verdicts):
            seen = [verdicts.get(case, "absent") for verdicts in natives]
            found = [verdicts.get(case, "absent") for verdicts in racks]
            said = found[0] if len(set(found)) == 1 else "/".join(found)
            if len(set(seen)) > 1:
                rows.append((case, "/".join(seen), said, "unstable"))
            else:
                # The verdict of most runs in the rack; a tie is a difference.
                same = found.count(seen[0]) * 2 > len(found)
                rows.append((case, seen[0], said, "same" if same else "differs"))
        return rows


def compare(comparisons, jobs):
    """Yields the comparisons as they are decided."""
    again = []
    # The longest first, so that none of them is left alone at the end.
    comparisons = sorted(comparisons, key=lambda comparison: -comparison.program.seconds)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(comparison.run): comparison for comparison in comparisons}
        for future in concurrent.futures.as_completed(running):
            future.result()
            comparison = running[future]
            if comparison.differs():
                again.append(comparison)
            else:
                yield comparison
    for comparison in again:
        for _ in range(REPEATS):
            comparison.run()
        yield comparison


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--suites", required=True, type=pathlib.Path)
    parser.add_argument("--legoctl", required=True)
    parser.add_argument("--tree", choices=["storage", "tmpfs", "both"], default="both")
    parser.add_argument("--suite", action="append")
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1)
    options = parser.parse_args()
    trees = ["storage", "tmpfs"] if options.tree == "both" else [options.tree]
    programs = [
        program for program in cases.programs(options.suites)
        if (not options.suite or program.suite in options.suite) and re.search(options.only, f"{program.suite}/{program.name}")
    ]
    if not programs:
        sys.exit("conformance: no case has a name like that")
    runner = Runner(options.work)
    totals = collections.Counter()
    table = open(options.work / "cases.tsv", "w", encoding="utf-8")
    print("\t".join(["tree", "suite", "program", "case", "native", "rack", "kind"]), file=table)
    for tree in trees:
        native = Place("native-disk" if tree == "storage" else "native-tmpfs", tree, False, options.work, options.legoctl)
        rack = Place(f"rack-{tree}", tree, True, options.work, options.legoctl)
        for comparison in compare([Comparison(runner, program, native, rack) for program in programs], options.jobs):
            program, rows = comparison.program, comparison.rows()
            count = collections.Counter(kind for *_, kind in rows)
            for case, seen, found, kind in rows:
                totals[tree, program.suite, kind] += 1
                print("\t".join([tree, program.suite, program.name, case, seen, found, kind]), file=table, flush=True)
                if kind != "same":
                    print(f"  {kind}: {tree} {program.suite}/{program.name}: {case}: native {seen}, rack {found}", flush=True)
            if options.only or count["differs"]:
                print(f"{tree} {program.suite}/{program.name}: {count['same']} same, {count['differs']} differ, "
                      f"{count['unstable']} unstable", flush=True)
    print(f"\n{'tree':10} {'suite':12} {'cases':>7} {'same':>7} {'differ':>7} {'unstable natively':>18}")
    for tree in trees:
        for suite in dict.fromkeys(program.suite for program in programs):
            same, differ, unstable = (totals[tree, suite, kind] for kind in ("same", "differs", "unstable"))
            print(f"{tree:10} {suite:12} {same + differ:7} {same:7} {differ:7} {unstable:18}")
    same = sum(count for (*_, kind), count in totals.items() if kind == "same")
    differ = sum(count for (*_, kind), count in totals.items() if kind == "differs")
    share = 100 * same / max(1, same + differ)
    print(f"\n{same} of {same + differ} cases have the native verdict: {share:.2f} %")
    print(f"every case is in {options.work}/cases.tsv, every output in {options.work}/output")
    return 0 if share >= 99 and same > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
