import CLinux
import Glibc
import Kernel

/// What a host lacks to run programs.
public struct MissingRequirements: Error, CustomStringConvertible {
    /// What each is and where it comes from.
    public let lines: [String]
    /// One line.
    public var description: String { lines.joined(separator: "; ") }
}

/// What a processor needs of its host.
public enum ProcessorRequirements {
    /// Throws one line for each thing that is missing. Leaves nothing behind.
    public static func check() throws(MissingRequirements) {
        var missing: [String] = []
        if geteuid() != 0 {
            missing.append("a processor must run as root (it traces programs and serves their page faults): use sudo")
        }
        missing += userfault()
        let flags = UInt64(LEGO_SECCOMP_NEW_LISTENER | LEGO_SECCOMP_WAIT_KILLABLE)
        if lego_seccomp_knows_flags(flags) < 0 {
            missing.append(
                "the kernel lacks seccomp user notification with WAIT_KILLABLE_RECV: Linux 6.8 or later is needed")
        }
        let own = lego_pidfd_open(getpid())
        if own < 0 {
            missing.append("the kernel lacks pidfd_open: Linux 6.8 or later is needed")
        } else {
            let copy = lego_pidfd_getfd(own, own)
            if copy < 0 {
                missing.append(
                    "pidfd_getfd is refused (\(KernelError.text(-copy))): Linux 6.8 or later and root are needed")
            } else {
                close(copy)
            }
            close(own)
        }
        if !missing.isEmpty { throw MissingRequirements(lines: missing) }
    }

    private static func userfault() -> [String] {
        let device = lego_uffd_open_device()
        if device < 0 {
            return [
                "/dev/userfaultfd cannot be opened (\(KernelError.text(-device))): Linux 6.8 or later and root are needed"
            ]
        }
        defer { close(device) }
        let descriptor = lego_uffd_create(device)
        if descriptor < 0 {
            return [
                "/dev/userfaultfd makes no descriptors (\(KernelError.text(-descriptor))): Linux 6.8 or later is needed, "
                    + "and in a container that device"
            ]
        }
        defer { close(descriptor) }
        var available: UInt64 = 0
        if lego_uffd_api(descriptor, 0, &available) < 0 {
            return ["the kernel's userfaultfd interface is not understood: Linux 6.8 or later is needed"]
        }
        let needed: [(String, UInt64)] = [
            ("write protection", UInt64(LEGO_UFFD_FEATURE_WRITE_PROTECT)),
            ("fork events", UInt64(LEGO_UFFD_FEATURE_EVENT_FORK)),
            ("remap events", UInt64(LEGO_UFFD_FEATURE_EVENT_REMAP)),
            ("thread numbers", UInt64(LEGO_UFFD_FEATURE_THREAD_ID)),
            ("UFFDIO_POISON", UInt64(LEGO_UFFD_FEATURE_POISON)),
            ("UFFDIO_MOVE", UInt64(LEGO_UFFD_FEATURE_MOVE)),
        ]
        return needed.filter { available & $0.1 == 0 }.map {
            "the kernel's userfaultfd lacks \($0.0): Linux 6.8 or later is needed"
        }
    }
}
