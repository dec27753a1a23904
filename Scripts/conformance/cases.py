"""The programs of the suites, and how their output is taken apart into cases."""

import dataclasses
import pathlib
import re
import subprocess
import typing


def parse_nothing(text):
    return {}


def parse_tap(text):
    """`ok 3 name # SKIP why`: kernel selftests, whose descriptions may hold numbers that differ from run to run."""
    verdicts, seen = {}, {}
    for match in re.finditer(r"^(?:# )?(not ok|ok) +(\d+)\b[ -]*(.*)$", text, re.MULTILINE):
        verdict, _, name = match.groups()
        name, _, directive = name.partition(" # ")
        if directive.startswith("SKIP") or "# SKIP" in name:
            verdict, name = "skip", name.partition("# SKIP")[0]
        elif directive.startswith("XFAIL"):
            verdict = "xfail"
        name = re.sub(r"0x[0-9a-f]+|\d{3,}|\[[\d.]+\]", "N", name.strip())
        seen[name] = seen.get(name, 0) + 1
        verdicts[name if seen[name] == 1 else f"{name} ({seen[name]})"] = verdict
    return verdicts


def parse_lines(text):
    """`Testing move on anon... done`: the userfaultfd unit tests."""
    return {
        name: verdict for name, verdict in re.findall(r"^Testing (.*?)\.\.\. .*?(done|skipped|failed|ERROR)", text, re.MULTILINE)
    }


def parse_unittest(text):
    """`test_a (test.test_os.Tests.test_a) ... ok`: `python3 -m test -v`. Output of the test itself may stand between."""
    verdicts = {}
    pattern = r"^(\w+) \((\S+?)\)(?: \((.*?)\))?(?:\n.*?)? \.\.\. "
    marks = list(re.finditer(pattern, text, re.MULTILINE))
    for index, mark in enumerate(marks):
        end = marks[index + 1].start() if index + 1 < len(marks) else len(text)
        found = re.search(r"\b(ok|FAIL|ERROR|skipped|expected failure|unexpected success)\b", text[mark.end():end])
        name = mark.group(2) if mark.group(2).endswith(mark.group(1)) else f"{mark.group(2)}.{mark.group(1)}"
        verdicts[name] = found.group(1) if found else "none"
    return verdicts


@dataclasses.dataclass
class Program:
    suite: str
    name: str
    arguments: list
    seconds: int = 60
    parse: typing.Callable = parse_nothing
    environment: dict = dataclasses.field(default_factory=dict)


# Kernel selftests: directory, programs (all that were built, if none are named), seconds.
SELFTEST_DIRECTORIES = [
    "mm", "futex/functional", "ptrace", "seccomp", "sigaltstack", "timers", "clone3", "pidfd", "openat2", "exec", "rseq",
    "proc", "core", "splice", "membarrier", "mincore", "mqueue", "ipc", "kcmp", "capabilities", "rlimits", "prctl",
    "filelock", "memfd", "tmpfs", "cachestat", "fchmodat2", "x86", "vDSO", "syscall_user_dispatch", "landlock", "nsfs",
    "timens", "pid_namespace", "perf_events", "breakpoints", "acct", "filesystems", "filesystems/epoll", "lsm",
    "net/af_unix", "mount",
]
# Not cases: benchmarks and stress loops without a verdict, tools, and what only root may begin.
NOT_CASES = {
    "seccomp_benchmark", "sud_benchmark", "gup_test", "thuge-gen", "transhuge-stress", "write_to_hugetlbfs", "mq_perf_tests",
    "gettime_perf", "nsleep-lat", "rtcpie", "set-timer-lat", "skew_consistency", "raw_skew", "inconsistency-check",
    "threadtest", "freq-step", "leap-a-day", "leapcrash", "change_skew", "clocksource-switch", "set-2038", "set-tai",
    "alarmtimer-suspend", "adjtick", "step_after_suspend_test", "fuse_mnt", "true", "sandbox-and-launch",
    "wait-pipe-sandbox", "hmm-tests", "hugetlb-soft-offline", "validate_cap", "splice_read", "default_file_splice_read",
    "trivial_32bit_program_32", "disable-tsc-ctxt-sw-stress-test", "disable-tsc-on-off-stress-test", "devpts_pts",
}
ARGUMENTS = {
    "mm/uffd-stress": [["anon", "4", "2"], ["shmem", "4", "2"], ["shmem-private", "4", "2"]],
    "mm/virtual_address_range": [],
    "mm/ksm_tests": [["-M"], ["-Z"], ["-U"], ["-C"]],
    "mm/khugepaged": [["all:anon"]],
    "mm/on-fault-limit": [[]],
}
SECONDS = {"mm/migration": 30, "timers/nanosleep": 90, "timers/posix_timers": 60, "rseq/param_test": 60, "mm/cow": 120,
           "mm/uffd-unit-tests": 120, "seccomp/seccomp_bpf": 400, "mm/mremap_test": 60, "mm/pkey_sighandler_tests_64": 30,
           "pidfd/pidfd_poll_test": 120, "openat2/rename_attack_test": 90}


def is_executable(path):
    return path.is_file() and path.stat().st_mode & 0o111 and path.read_bytes()[:4] == b"\x7fELF"


def selftests(root):
    for directory in SELFTEST_DIRECTORIES:
        folder = root / "tools/testing/selftests" / directory
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if not is_executable(path) or path.name in NOT_CASES or path.suffix in (".so", ".o"):
                continue
            name = f"{directory}/{path.name}"
            for arguments in ARGUMENTS.get(name, [[]]):
                yield Program("selftests", " ".join([name, *arguments]), [str(path), *arguments], SECONDS.get(name, 30),
                    parse_lines if path.name == "uffd-unit-tests" else parse_tap)


CPYTHON = """
test_os test_posix test_mmap test_socket test_signal test_subprocess test_fcntl test_select test_selectors test_poll
test_epoll test_threading test_thread test_io test_shutil test_tempfile test_file test_fileio test_largefile test_popen
test_pipes test_pty test_resource test_fork1 test_wait3 test_wait4 test_socketserver test_asyncore test_asynchat test_stat
test_time test_pathlib test_glob test_posixpath test_mailbox test_zipfile test_tarfile test_dbm test_shelve test_sqlite3
test_threadsignals test_threadedtempfile test_memoryview test_multiprocessing_main_handling test_concurrent_futures
test_eintr test_ioctl test_openpty test_pwd test_grp test_getpass test_cmd_line test_faulthandler test_gc test_exceptions
test_capi test_ctypes test_mmap test_array test_bytes test_queue test_sched test_contextlib test_venv test_unicode_file
test_genericpath test_netrc test_httpservers test_ftplib test_smtplib test_asyncio test_kqueue test_lockf test_syslog
""".split()
CPYTHON_SECONDS = {"test_subprocess": 240, "test_asyncio": 300, "test_concurrent_futures": 300, "test_socket": 240,
                   "test_multiprocessing_fork": 300}


def cpython():
    known = pathlib.Path("/usr/lib/python3.11/test")
    for name in dict.fromkeys(CPYTHON):
        if (known / f"{name}.py").exists() or (known / name).is_dir():
            yield Program(
                "cpython", name, ["/usr/bin/python3.11", "-m", "test", "-v", name], CPYTHON_SECONDS.get(name, 120), parse_unittest)


# What stress-ng does per stressor: operations, few enough that each takes some seconds at most.
STRESS_OPERATIONS = 40
STRESS_SECONDS = 20


def stress_ng():
    listed = subprocess.run(["stress-ng", "--stressors"], capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        if name == "dccp":  # gone from Linux 6.16
            continue
        yield Program(
            "stress-ng", name,
            ["stress-ng", f"--{name}", "1", f"--{name}-ops", str(STRESS_OPERATIONS), "--verify", "--timeout", "4s", "--temp-path", "."],
            STRESS_SECONDS, parse_nothing)


def programs(suites):
    yield from selftests(suites / "linux")
    yield from stress_ng()
    yield from cpython()


if __name__ == "__main__":
    # What Scripts/conformance.sh builds.
    print("\n".join(SELFTEST_DIRECTORIES))
