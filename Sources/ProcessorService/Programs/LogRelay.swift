import Glibc
import Kernel

/// Carries a detached program's output from its pipe into its log, which is not bounded. Owned by the program's thread.
struct LogRelay: ~Copyable {
    private var pipe: Descriptor?
    private let file: Descriptor?
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 16)
    /// Why the log takes no more; what the program writes from then on is lost, but the program goes on.
    private(set) var failure: KernelError?

    /// Both nil for an attached program.
    init(pipe: consuming Descriptor?, file: consuming Descriptor?) {
        self.pipe = pipe
        self.file = file
    }

    deinit { buffer.deallocate() }

    var poll: pollfd { pollfd(fd: raw(of: pipe), events: Int16(POLLIN), revents: 0) }

    private func raw(of descriptor: borrowing Descriptor?) -> Int32 {
        switch descriptor {
        case .some(let descriptor): descriptor.raw
        case .none: -1
        }
    }

    /// Writes what the pipe holds. Answers false at its end, or when it is empty.
    mutating func serve() -> Bool {
        let source = raw(of: pipe)
        if source < 0 { return false }
        let count = read(source, buffer.baseAddress, buffer.count)
        if count > 0 {
            write(count)
            return true
        }
        if count < 0 && errno == EINTR { return true }
        if count == 0 || errno != EAGAIN { pipe = nil }
        return false
    }

    private mutating func write(_ count: Int) {
        var done = 0
        while done < count && failure == nil {
            let part = Glibc.write(raw(of: file), buffer.baseAddress! + done, count - done)
            if part > 0 {
                done += part
            } else if errno != EINTR {
                failure = KernelError("write")
            }
        }
    }
}
