import Glibc
import Kernel

/// What makes the daemons of one start outlive this command: an eventfd that all of them inherit and none reads. One
/// signal keeps all; a command that ends before it leaves none.
struct StartCommitment: ~Copyable {
    private let descriptor: Descriptor

    init() throws(CommandFailure) {
        do {
            let event = try EventDescriptor()
            // Above the numbers that a daemon finds its descriptors under, so that no copy there closes this one.
            let raw = fcntl(event.raw, F_DUPFD_CLOEXEC, 10)
            if raw < 0 { throw KernelError("fcntl") }
            descriptor = Descriptor(taking: raw)
        } catch {
            throw CommandFailure("cannot start a component: \(error)")
        }
    }

    var raw: Int32 { descriptor.raw }

    /// From here on the command says how the start ended, whatever an impatient user sends.
    func hold() { for number in [SIGINT, SIGTERM, SIGHUP] { signal(number, SIG_IGN) } }

    /// Keeps every daemon of the start.
    func commit() {
        var one: UInt64 = 1
        _ = write(raw, &one, 8)
    }
}
