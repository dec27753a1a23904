import CLinux
import Glibc
import Kernel

/// Carries a detached program's output from its pipe into its log, and keeps the last part of it only: what is older
/// becomes a hole in the file, whose offsets stay. Owned by the program's thread.
struct LogRelay: ~Copyable {
    private var pipe: Descriptor?
    private let file: Descriptor?
    private let extent: LogExtent
    /// Bytes that are kept at least; an eighth more before the oldest go.
    private let bytes_max: Int
    private var size = 0
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 16)
    /// Why the log takes no more; what the program writes from then on is lost, but the program goes on.
    private(set) var failure: KernelError?

    /// FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (fallocate(2)), which the C library's Swift module leaves out.
    private static let punchHole: Int32 = 3

    /// Both descriptors nil for an attached program.
    init(pipe: consuming Descriptor?, file: consuming Descriptor?, extent: LogExtent, bytes_max: Int) {
        self.pipe = pipe
        self.file = file
        self.extent = extent
        self.bytes_max = bytes_max
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
        size += done
        dropOldest()
    }

    private mutating func dropOldest() {
        let start = extent.start
        if failure != nil || size - start <= bytes_max + bytes_max / 8 { return }
        // Whole blocks: a part of one would keep its room.
        let next = (size - bytes_max) & ~4095
        if next <= start { return }
        extent.drop(before: next)
        let result = lego_file_allocate(raw(of: file), Self.punchHole, Int64(start), Int64(next - start))
        // A file system without holes: the log ends here rather than grow.
        if result < 0 { failure = KernelError("fallocate", -result) }
    }
}
